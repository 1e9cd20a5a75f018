"""docs/configuration.md: every key of every table, from the dataclasses that own them.

python -m pipeline.report.settings_page > docs/configuration.md
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.config import TABLES, SplitConfig
from teacher_cache.settings import setting_of

SHOWN: Mapping[str, Any] = {
    "data": TABLES["data"],
    "data.splits.NAME": SplitConfig,
    **{name: kind for name, kind in TABLES.items() if name not in ("data", "demo_corpus")},
    "demo_corpus": TABLES["demo_corpus"],
}
_HEAD = """# Every setting

Written by `python -m pipeline.report.settings_page` from the dataclasses that own the settings; a test fails
where this page is stale. A config is a TOML file of these tables. `base = "librispeech-100"` takes
everything from a shipped config, or from a file, and gives only what differs; `--set table.key=value`
(or `SET=` for make) overrides one key of a run. An unknown key, a value of another type or outside its
range is refused in one line before anything is done. Defaults are those of an empty table; the shipped
configs in `pipeline/configs/` say otherwise where their comments tell why.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(line for name, kind in SHOWN.items() for line in _table(name, kind))])


def _table(name: str, kind: Any) -> Iterator[str]:
    yield f"## [{name}]"
    yield ""
    yield (kind.__doc__ or "").strip().splitlines()[0]
    yield ""
    yield "| key | type | default | range | unit | what it is for |"
    yield "|---|---|---|---|---|---|"
    types = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        declared = setting_of(field)
        if declared is None:
            raise ValueError(f"{name}.{field.name} is declared without `setting`: it has no reason to show")
        default = "" if field.default is dataclasses.MISSING else f"`{_toml(field.default)}`"
        cells = [f"`{field.name}`", _type_name(types[field.name]), default or "required"]
        yield (
            "| "
            + " | ".join([*cells, _escaped(declared.range), declared.unit, _escaped(declared.reason)])
            + " |"
        )
    yield ""


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(element) for element in value) + "]"
    return f'"{value}"' if isinstance(value, str) else f"{value!r}"


def _type_name(annotation: Any) -> str:
    names = {"str": "string", "int": "integer", "float": "number", "bool": "true or false"}
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple:
        return f"list of {_type_name(arguments[0])}s"
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return "tables"
    if arguments:
        return " or ".join(_type_name(argument) for argument in arguments)
    return names[annotation.__name__]


def _escaped(text: str) -> str:
    return text.replace("|", "or")


if __name__ == "__main__":
    print(page(), end="")
