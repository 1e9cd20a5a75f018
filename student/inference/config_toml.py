"""The student's config as TOML, for people to read beside an exported model, and back."""

from __future__ import annotations

import json
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from student.config import StudentConfig
from student.errors import StudentError


def toml_of(tables: Mapping[str, Mapping[str, Any]], top: Mapping[str, Any]) -> str:
    """TOML text: the entries of `top`, then one table each; values are texts, numbers, booleans, lists."""
    lines = [f"{key} = {_value(value)}" for key, value in top.items()]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def tables_of(config: StudentConfig) -> dict[str, dict[str, Any]]:
    """The config's tables, for `toml_of`."""
    return asdict(config)


def config_of(text: str) -> tuple[StudentConfig, dict[str, Any]]:
    """The config of a TOML text, and its other entries. Raises StudentError for a key that is not known."""
    try:
        content = tomllib.loads(text)
        types = typing.get_type_hints(StudentConfig)
        tables = {
            entry.name: types[entry.name](
                **{key: _field(value) for key, value in content.pop(entry.name, {}).items()}
            )
            for entry in fields(StudentConfig)
        }
        return StudentConfig(**tables), content
    except (tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise StudentError(f"no config of this version ({error}); export the run again") from None


def _field(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(item) for item in value)}]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
