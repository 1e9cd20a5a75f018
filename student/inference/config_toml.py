"""The student's config as TOML, for people to read beside an exported model, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from student.config import StudentConfig
from student.files import FILES
from teacher_cache.common.small_files import parse_toml
from teacher_cache.common.typed import typed


def toml_of(tables: Mapping[str, Mapping[str, Any]], top: Mapping[str, Any]) -> str:
    """TOML text: the entries of `top`, then one table each; values are texts, numbers, booleans, lists."""
    lines = [f"{key} = {_value(value)}" for key, value in top.items()]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def tables_of(config: StudentConfig) -> dict[str, dict[str, Any]]:
    """The config's tables, for `toml_of`."""
    return asdict(config)


def config_of(text: str, source: Path | str = "model.toml") -> tuple[StudentConfig, dict[str, Any]]:
    """The config of a TOML text, and its other entries; `source` names it in messages.

    Raises StudentError for a key that is not known, and for a value of another type or beyond its range.
    """
    with FILES.faults_told(source, "no config of this version; export the run again"):
        content = parse_toml(text)
        names = {field.name for field in fields(StudentConfig)}
        tables = {name: content.pop(name) for name in names & content.keys()}
        return typed(StudentConfig, tables), content


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(item) for item in value)}]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
