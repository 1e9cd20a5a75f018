"""Progress with time left: a bar on a terminal, a plain line every 30 seconds anywhere else."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from teacher_cache.common.terminal import Screen, printable, say

PLAIN_LINE_SECONDS = 30.0
_PLAIN_LINE = re.compile(r"(.+): ([\d,]+)/([\d,]+) (?:.*), \d+ s elapsed, (\d+ s left.*)")

Advance = Callable[..., None]  # advance(amount=1, note="")


@dataclass(frozen=True, slots=True)
class PlainLine:
    """What a plain line of progress said. note : the time left and whatever followed it"""

    title: str
    done: float
    total: float
    note: str


def read_plain_line(line: str) -> PlainLine | None:
    """A plain line of `progress` as it was meant, None for any other line."""
    found = _PLAIN_LINE.fullmatch(line)
    if found is None:
        return None
    done, total = (float(part.replace(",", "")) for part in found.group(2, 3))
    return PlainLine(found[1], done, total, found[4])


@contextmanager
def progress(title: str, total: float, unit: str = "") -> Iterator[Advance]:
    """Yield `advance(amount=1, note="")`; everything is written to standard error.

    rich honours NO_COLOR by itself.
    """
    if sys.stderr.isatty():
        with _bar(title, total, unit) as advance:
            yield advance
    else:
        yield _plain_lines(title, total, unit)


@contextmanager
def _bar(title: str, total: float, unit: str) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(file=cast("IO[str]", Screen()))) as bar:
        task = bar.add_task(printable(title), total=total, note="")

        def advance(amount: float = 1, note: str = "") -> None:
            bar.advance(task, amount)
            if note:
                bar.update(task, note=printable(note))

        yield advance


def _plain_lines(title: str, total: float, unit: str) -> Advance:
    started = last_line = time.monotonic()
    done = 0.0

    def advance(amount: float = 1, note: str = "") -> None:
        nonlocal done, last_line
        done += amount
        now = time.monotonic()
        if now - last_line >= PLAIN_LINE_SECONDS or (done >= total and done - amount < total):
            last_line = now
            left = (now - started) * max(total - done, 0) / done if done else 0.0
            line = (
                f"{title}: {done:,.0f}/{total:,.0f} {unit}, {now - started:.0f} s elapsed, {left:.0f} s left"
            )
            say(f"{line}  {note}".rstrip())

    return advance
