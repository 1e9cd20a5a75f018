"""Tables and lines for people as Markdown, for a file beside the figures."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table


def as_markdown(parts: Sequence[str | Table]) -> str:
    """The parts one below the other, apart from each other by an empty line; lines as they stand."""
    shown = [_table(part) if isinstance(part, Table) else part for part in parts]
    return "\n\n".join(shown) + "\n"


def _table(table: Table) -> str:
    """A pipe table: the first column to the left, the others to the right."""
    names = [_cell(str(column.header)) for column in table.columns]
    rows = zip(*([_cell(str(cell)) for cell in column.cells] for column in table.columns), strict=True)
    edges = ["---", *["---:"] * (len(names) - 1)]
    title = [f"**{_cell(str(table.title))}**", ""] if table.title and str(table.title) else []
    return "\n".join([*title, *(f"| {' | '.join(row)} |" for row in (names, edges, *rows))])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
