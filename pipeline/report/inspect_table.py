"""An inspected passage on a terminal: a line per token, greener the surer the teacher was of it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from teacher_cache.common.terminal import printable
from teacher_cache.store.inspection import InspectedPassage, InspectedToken

LIKELY = 0.5
POSSIBLE = 0.05


def inspection_lines(inspected: Sequence[InspectedPassage]) -> list[str | Table]:
    """A heading and a table per passage; colours are rich's, which leaves them out under NO_COLOR."""
    lines: list[str | Table] = []
    for shown in inspected:
        context = [f"left: {shown.passage.left}", f"right: {shown.passage.right}"]
        lines.append(f"{shown.name}: {shown.passage.text}")
        lines += [line for line in context if not line.endswith(": ")]
        lines.append(_table(shown))
    return lines


def certainty(probability: float) -> str:
    """ "likely", "possible" or "surprising": how a token's probability is coloured."""
    if probability >= LIKELY:
        return "likely"
    return "possible" if probability >= POSSIBLE else "surprising"


def percent(probability: float) -> str:
    """Per cent, with figures enough to tell small ones apart."""
    return f"{100 * probability:.1f}" if probability >= 0.001 else f"{100 * probability:.0e}"


_COLOURS = {"likely": "green", "possible": "yellow", "surprising": "red"}


def _table(shown: InspectedPassage) -> Table:
    table = Table(box=None, pad_edge=False)
    for column, justify in (("token", "left"), ("%", "right"), ("rank", "right"), ("alternatives", "left")):
        table.add_column(
            column, justify="right" if justify == "right" else "left", no_wrap=justify == "right"
        )
    for token in shown.tokens:
        colour = _COLOURS[certainty(token.probability)]
        rank = "-" if token.rank is None else str(token.rank)
        table.add_row(
            Text(printable(token.piece), style=f"bold {colour}"),
            Text(percent(token.probability), style=colour),
            Text(rank),
            _alternatives(token),
        )
    return table


def _alternatives(token: InspectedToken) -> Text:
    line = Text()
    for candidate in token.candidates:
        line.append(printable(candidate.piece), style="bold underline" if candidate.is_gold else "")
        line.append(f" {percent(candidate.probability)}   ", style="dim")
    line.append(f"others {percent(token.other_probability)}", style="dim")
    return line
