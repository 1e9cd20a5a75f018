"""Plain values of a file, held to the dataclass that they shall become: known keys, stated types."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from teacher_cache.settings import setting_of, shown_value

_COMPARED_CHARACTERS = 100  # of an unknown key
_Record = TypeVar("_Record")


class Fault(ValueError):
    """What is wrong with a file or its content, in words that follow its name."""


def typed(kind: type[_Record], value: Any, where: str = "") -> _Record:
    """The dataclass `kind` of a table, its fields converted by their annotations, tables within tables too.

    where : how messages call the table, "" for a whole file
    Raises Fault for an unknown or a missing key, a value of another type, and what `kind` itself refuses.
    """
    if not isinstance(value, Mapping):
        raise Fault(f"{_table(where)}is not a table: {shown_value(value)}")
    declared = {field.name: field for field in dataclasses.fields(kind) if field.init}  # type: ignore[arg-type]
    refuse_unknown(value, list(declared), "key", where)
    converted = {}
    for name, field in declared.items():
        if name in value:
            converted[name] = _field(kind, field, value[name], where)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise Fault(f"{_table(where)}lacks {name!r}")
    try:
        return kind(**converted)
    except Fault:
        raise
    except (TypeError, ValueError) as error:
        raise Fault(f"{_table(where)}{error}") from None


def refuse_unknown(table: Mapping[str, Any], known: list[str], what: str, where: str = "") -> None:
    """Raise Fault for the first key that is not among `known`, with the nearest that is.

    what : how the message calls a key
    """
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(str(key)[:_COMPARED_CHARACTERS], known, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            is_plain = str(key).isidentifier() and len(key) <= _COMPARED_CHARACTERS
            shown = f"{where}.{key}" if where and is_plain else shown_value(key)
            raise Fault(f"unknown {what} {shown}{hint}")


def convert(annotation: Any, value: Any, where: str) -> Any:
    """The value as its annotation wants it: a list as a tuple, an integer as a float. Raises Fault."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return value
    if dataclasses.is_dataclass(annotation):
        return typed(typing.cast(type[Any], annotation), value, where)
    if origin in (types.UnionType, typing.Union):
        return _one_of(annotation, arguments, value, where)
    if origin in (tuple, list) and isinstance(value, list | tuple):
        return origin(convert(arguments[0], element, where) for element in value)
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {
            convert(arguments[0], key, where): convert(arguments[1], element, f"{where}.{key}")
            for key, element in value.items()
        }
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if annotation in (bool, int, float, str):
        is_of_type = type(value) is annotation
    else:
        is_of_type = isinstance(annotation, type) and isinstance(value, annotation)
    if annotation is None or annotation is types.NoneType:
        is_of_type = value is None
    if not is_of_type:
        raise Fault(f"{where} = {shown_value(value)} is not of type {_name(annotation)}")
    return value


def _field(kind: Any, field: dataclasses.Field[Any], value: Any, where: str) -> Any:
    key = f"{where}.{field.name}" if where else field.name
    try:
        return convert(_hints(kind)[field.name], value, key)
    except Fault as fault:
        declared = setting_of(field)
        if declared is None or not declared.range or dataclasses.is_dataclass(_hints(kind)[field.name]):
            raise
        raise Fault(f"{fault}; allowed: {declared.range}") from None


def _one_of(annotation: Any, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    for argument in arguments:
        try:
            return convert(argument, value, where)
        except Fault:
            continue
    raise Fault(f"{where} = {shown_value(value)} is not of type {annotation}")


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _name(annotation: Any) -> str:
    is_generic = typing.get_origin(annotation) is not None
    return str(annotation) if is_generic else getattr(annotation, "__name__", str(annotation))


def _table(where: str) -> str:
    return f"[{where}] " if where else ""
