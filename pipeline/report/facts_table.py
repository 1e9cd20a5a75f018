"""A JSON object as tables: plain facts in one, each object and each list of objects in one of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from pipeline.console import table


def facts_tables(facts: Mapping[str, Any], title: str = "") -> list[Table]:
    """Tables that show all of it, whatever a foreign file put there; the outermost first.

    title : what the object is called by the one that holds it
    """
    plain = {name: value for name, value in facts.items() if not _is_nested(value)}
    tables = [_columns(plain, title) if _is_counted(plain) else _lines(plain, title)] if plain else []
    for name, value in facts.items():
        words = f"{title}: {_words(name)}" if title else _words(name)
        if isinstance(value, Mapping) and value:
            tables += facts_tables(value, words)
        elif _is_nested(value):
            tables.append(_records(value, words))
    return tables


def _is_nested(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(entry, Mapping) for entry in value)
    return isinstance(value, Mapping) and bool(value)


def _is_counted(facts: Mapping[str, Any]) -> bool:
    """Figures over K: {"1": 0.5, "4": 0.7}."""
    return len(facts) > 1 and all(str(name).isdecimal() for name in facts)


def _lines(facts: Mapping[str, Any], title: str) -> Table:
    return _left(table(title, ["", ""], [[_words(name), shown(value)] for name, value in facts.items()]))


def _left(made: Table) -> Table:
    """Facts are texts: they begin where they are looked for."""
    made.columns[-1].justify, made.columns[-1].no_wrap = "left", False
    made.show_header = False
    return made


def _columns(facts: Mapping[str, Any], title: str) -> Table:
    return table(title, list(map(str, facts)), [[shown(value) for value in facts.values()]])


def _records(records: Sequence[Mapping[str, Any]], title: str) -> Table:
    names = list(dict.fromkeys(name for record in records for name in record))
    rows = [[shown(record.get(name, "-")) for name in names] for record in records]
    return table(title, [_words(name) for name in names], rows)


def _words(name: Any) -> str:
    return str(name).replace("_", " ")


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
