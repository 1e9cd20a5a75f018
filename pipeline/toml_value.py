"""Values that a TOML file held, written as TOML again: for `--set section.key=value`."""

from __future__ import annotations

import json
from typing import Any


def toml_value(value: Any) -> str:
    """A value that a TOML file held, written as one again."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, dict):
        entries = (f"{toml_value(key)} = {toml_value(entry)}" for key, entry in value.items())
        return f"{{{', '.join(entries)}}}"
    return str(value)
