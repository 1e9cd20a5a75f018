"""What differs between two nested tables (configs, recipes, plans, notes, versions), in phrases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from teacher_cache.common.files import canonical_json

NAMED_DIFFERENCES = 12


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> both values, sorted by key, of every leaf in which two tables differ.

    A table within a table is walked; whatever else stands at a key is a leaf. An absent key is None. A tuple
    equals the list that JSON makes of it.
    """
    return dict(sorted(_walked(old, new, "")))


def phrases(found: Mapping[str, tuple[Any, Any]], wording: str = "{key}: {old!r} -> {new!r}") -> list[str]:
    """One phrase for each difference; `wording` may name key, old and new."""
    return [wording.format(key=key, old=old, new=new) for key, (old, new) in found.items()]


def listed(names: Sequence[str], limit: int = NAMED_DIFFERENCES, separator: str = "; ") -> str:
    """The first names or phrases in one line, and how many more there are."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return separator.join(names[:limit]) + more


def shown(value: Any) -> str:
    """A string as it is, anything else as canonical JSON."""
    return value if isinstance(value, str) else canonical_json(value)


def _walked(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str) -> list[tuple[str, tuple[Any, Any]]]:
    found = []
    for key in old.keys() | new.keys():
        one, other = old.get(key), new.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += _walked(one, other, f"{prefix}{key}.")
        elif _as_json(one) != _as_json(other):
            found.append((f"{prefix}{key}", (one, other)))
    return found


def _as_json(value: Any) -> Any:
    """The value with every tuple as a list."""
    if isinstance(value, Mapping):
        return {key: _as_json(entry) for key, entry in value.items()}
    return [_as_json(entry) for entry in value] if isinstance(value, list | tuple) else value
