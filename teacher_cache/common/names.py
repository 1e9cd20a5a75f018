"""Names of caches and splits: one grammar, which no path, option or hidden file has."""

from __future__ import annotations

import re

NAME_RULE = "at most 100 letters, digits, '.', '_' and '-', the first a letter, a digit or '_'"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def is_name(text: str) -> bool:
    """Whether a text is a name: `NAME_RULE`."""
    return _NAME.fullmatch(text) is not None
