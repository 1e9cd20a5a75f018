"""How commands speak: tables for people, one JSON object for scripts, one line for a domain error."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from pipeline.errors import PipelineError
from pipeline.paths import roots_from
from student.errors import StudentError
from teacher_cache.errors import CacheError

PLAIN_WIDTH = 160


@dataclass(frozen=True, slots=True)
class Report:
    """What a stage hands its command: a result for scripts, lines and tables for people."""

    result: Mapping[str, Any]
    lines: Sequence[str | Table] = field(default_factory=tuple)


class DomainErrorGroup(click.Group):
    """A click group that tells a domain error in one line and exits with code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Invoke the command; 0 done, 1 domain error or interruption, 2 wrong usage."""
        try:
            return super().invoke(ctx)
        except (PipelineError, StudentError, CacheError) as error:
            print(f"Error: {' '.join(str(error).split())}", file=sys.stderr)
            # An interrupted training asks a queue to start it again by a code of its own.
            ctx.exit(getattr(error, "exit_code", 1))
        except KeyboardInterrupt:
            raise click.ClickException("interrupted; run the same command again to go on") from None
        except OSError as error:
            if error.errno is None:
                raise
            where = f" {error.filename}" if error.filename else ""
            raise click.ClickException(f"{error.strerror}:{where}; free or fix it, then run again") from error


def emit(report: Report, as_json: bool) -> None:
    """Print one JSON object for a script, or the lines and tables for a person."""
    if as_json:
        print(json.dumps(report.result, sort_keys=True))
        return
    # Without a terminal rich assumes 80 columns and would cut figures short.
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    for line in report.lines:
        console.print(line, markup=False) if isinstance(line, str) else console.print(line)


def say(line: str) -> None:
    """Tell a person something on standard error, where it never disturbs a script."""
    print(line, file=sys.stderr, flush=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A plain table; the first column to the left, the others to the right."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    return made


def with_roots(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add `--<name>-root` options and hand the command a `Roots` as its keyword `roots`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapped(**options: Any) -> None:
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
