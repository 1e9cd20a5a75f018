"""A JSON object as tables: plain facts in one, each object and each list of objects in one of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from pipeline.console import table


def facts_tables(facts: Mapping[str, Any], title: str = "") -> list[str | Table]:
    """Tables that show all of it, whatever a foreign file put there, each below a line that names it.

    title : what the object is called by the one that holds it
    """
    plain = {name: value for name, value in facts.items() if not _is_nested(value)}
    lines: list[str | Table] = [title] if title and plain else []
    if plain:
        lines.append(_figures(plain) if _is_by_number(plain) else _facts(plain))
    for name, value in facts.items():
        words = f"{title}: {_words(name)}" if title else _words(name)
        if isinstance(value, Mapping) and value:
            lines += facts_tables(value, words)
        elif _is_nested(value):
            lines += [words, _records(value)]
    return lines


def shown(value: Any) -> str:
    """A plain value as a person writes it: thousands apart, lists by commas, nothing as "-"."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,g}" if abs(value) < 1e6 else f"{value:,.0f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or "-"
    return str(value) if value not in (None, "", {}) else "-"


def _is_nested(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(entry, Mapping) for entry in value)
    return isinstance(value, Mapping) and bool(value)


def _is_by_number(facts: Mapping[str, Any]) -> bool:
    """Figures over K: {"1": 0.5, "4": 0.7}."""
    return len(facts) > 1 and all(str(name).isdecimal() for name in facts)


def _facts(facts: Mapping[str, Any]) -> Table:
    """A row for each; texts begin where they are looked for."""
    made = table("", ["", ""], [[_words(name), shown(value)] for name, value in facts.items()])
    made.show_header = False
    made.columns[1].justify, made.columns[1].no_wrap, made.columns[1].overflow = "left", False, "fold"
    return made


def _figures(facts: Mapping[str, Any]) -> Table:
    return table("", list(map(str, facts)), [[shown(value) for value in facts.values()]])


def _records(records: Sequence[Mapping[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for record in records for name in record))
    rows = [[shown(record.get(name)) for name in names] for record in records]
    return table("", [_words(name) for name in names], rows)


def _words(name: Any) -> str:
    return str(name).replace("_", " ")
