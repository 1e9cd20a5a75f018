"""How commands speak: tables for people, one JSON object for scripts, one line for a domain error."""

from __future__ import annotations

import functools
import json
import math
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.errors import PipelineError
from pipeline.interruption import exit_code_of, line_of, working
from pipeline.next_command import completed, remember_what_was_given
from pipeline.paths import roots_from
from student.errors import StudentError
from teacher_cache.common.terminal import printable, say
from teacher_cache.errors import CacheError

__all__ = ["DomainErrorGroup", "Report", "emit", "say", "table", "with_roots"]

PLAIN_WIDTH = 160


@dataclass(frozen=True, slots=True)
class Report:
    """What a stage hands its command: a result for scripts, lines and tables for people."""

    result: Mapping[str, Any]
    lines: Sequence[str | Table] = field(default_factory=tuple)


class DomainErrorGroup(click.Group):
    """A click group that reports a domain error, a disk's fault and a signal in one line each."""

    def invoke(self, ctx: click.Context) -> Any:
        """Invoke the command; 0 done, 1 domain error, 2 wrong usage, 128 + its number for a signal."""
        try:
            with working():
                return super().invoke(ctx)
        except (PipelineError, StudentError, CacheError) as error:
            say(f"Error: {completed(' '.join(str(error).split()), ctx)}")
            # An interrupted training asks a queue to start it again by a code of its own.
            ctx.exit(getattr(error, "exit_code", 1))
        except KeyboardInterrupt as stop:
            number = getattr(stop, "signal_number", signal.SIGINT)
            say(line_of(number))
            ctx.exit(exit_code_of(number))
        except OSError as error:
            if error.errno is None:
                raise
            where = f" {error.filename}" if error.filename else ""
            say(f"Error: {error.strerror}:{where}; free or fix it, then run again")
            ctx.exit(1)


def emit(report: Report, as_json: bool) -> None:
    """Print one JSON object for a script, or the lines and tables for a person."""
    if as_json:
        print(json.dumps(_finite(report.result), sort_keys=True, allow_nan=False), flush=True)
        return
    context = click.get_current_context(silent=True)
    # Without a terminal rich assumes 80 columns and would cut figures short.
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    for line in report.lines:
        console.print(Text(printable(completed(line, context))) if isinstance(line, str) else line)


def _finite(value: Any) -> Any:
    """The value as JSON has it: NaN and infinity, which a foreign file may hold, are null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list | tuple) else value


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A plain table of texts as they stand; the first column to the left, the others to the right.

    columns : their names, which may have several lines: they are ours, cells may be anybody's
    """
    made = Table(title=Text(printable(title)), title_justify="left", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        name = Text("\n".join(map(printable, column.split("\n"))))
        made.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    return made


def with_roots(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add `--<name>-root` options and hand the command a `Roots` as its keyword `roots`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapped(**options: Any) -> None:
            remember_what_was_given()
            given: dict[str, Path | None] = {name: options.pop(f"{name}_root") for name in names}
            command(roots=roots_from(given), **options)

        decorated: Callable[..., None] = wrapped
        for name in names:
            help_text = f"default: BERT2CTC_{name.upper()}, else a folder below this one"
            decorated = click.option(f"--{name}-root", type=click.Path(path_type=Path), help=help_text)(
                decorated
            )
        return decorated

    return decorate


json_option = click.option("--json", "as_json", is_flag=True, help="one JSON object on standard output")
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="override one setting; repeatable"
)
config_argument = click.argument("config", default="demo")
