"""What processes side by side say: lines that begin with a name; on a terminal a bar of progress each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from pipeline.console import say
from teacher_cache.common.progress import read_plain_line
from teacher_cache.common.terminal import Screen, printable

Tell = Callable[[str, str], None]  # (name, line); an empty line: nothing more comes from there


@contextmanager
def told_apart() -> Iterator[Tell]:
    """Yield `tell(name, line)`; everything is written to standard error."""
    if not sys.stderr.isatty():
        yield lambda name, line: say(f"{name}: {line}") if line else None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(file=cast("IO[str]", Screen()), highlight=False)) as bars:
        yield Bars(bars).tell


class Bars:
    """A bar for each name that has said how far it is; other lines go above the bars."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def tell(self, name: str, line: str) -> None:
        """Show a line of `name`; an empty one takes its bar away."""
        if not line:
            if name in self._tasks:
                self._bars.remove_task(self._tasks.pop(name))
            return
        plain = read_plain_line(line)
        if plain is None:
            self._bars.console.print(Text(printable(f"{name}: {line}")), soft_wrap=True)
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task("", visible=False, note="")
        self._bars.update(
            self._tasks[name],
            description=printable(f"{name}: {plain.title}"),
            completed=plain.done,
            total=plain.total,
            note=printable(plain.note),
            visible=True,
        )
