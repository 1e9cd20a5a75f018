"""`bert2ctc runs ...`, `compare`, `report` and `export`: parsing only; what is heavy loads inside each."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.console import emit, json_option, with_roots
from pipeline.paths import Roots

average_option = click.option(
    "--average", "average_count", default=0, metavar="N", help="the mean of N checkpoints instead"
)
average_of_option = click.option(
    "--average-of",
    type=click.Choice(["last", "best"]),
    default="last",
    help="which N: the last, or those with the lowest dev WER",
)


@click.group()
def runs() -> None:
    """Trainings: how they fare, and what they differ in."""


@runs.command("ls")
@with_roots("runs", "cache")
@json_option
def runs_ls(roots: Roots, as_json: bool) -> None:
    """List runs with state, step, best dev WER and cache."""
    from pipeline.stages.runs import list_runs

    emit(list_runs(roots), as_json)


@runs.command("diff")
@click.argument("one")
@click.argument("other")
@with_roots("runs", "cache")
@json_option
def runs_diff(one: str, other: str, roots: Roots, as_json: bool) -> None:
    """Settings, cache and versions in which the runs ONE and OTHER differ."""
    from pipeline.stages.runs import diff_runs

    emit(diff_runs(run_folder(one, roots), run_folder(other, roots), roots), as_json)


@runs.command("pack")
@click.argument("run")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@with_roots("runs")
@json_option
def runs_pack(run: str, file: Path, roots: Roots, as_json: bool) -> None:
    """Write what is known of RUN to a new JSON FILE, which `compare` and `report` take in its place."""
    from pipeline.stages.compare import pack_run

    emit(pack_run(run_folder(run, roots), file, roots), as_json)


@click.command("compare")
@click.argument("references", metavar="RUN[@DECODER]...", nargs=-1, required=True)
@click.option("--split", default="", help="default: the only one but dev that all were evaluated on")
@click.option("--every-pair", is_flag=True, help="each with each, not with the first alone")
@click.option(
    "--homophones",
    type=click.Path(path_type=Path, dir_okay=False),
    help="a list: words of one line sound alike; the demo knows its own",
)
@click.option("--top", default=20, type=click.IntRange(min=0), show_default=True, help="words shown")
@with_roots("runs")
@json_option
def compare(
    references: tuple[str, ...],
    split: str,
    every_pair: bool,
    homophones: Path | None,
    top: int,
    roots: Roots,
    as_json: bool,
) -> None:
    """Hold evaluated runs against the first: WER with intervals, tests, and the words behind them.

    RUN is a run, or the JSON of one made elsewhere. Runs that differ in their seed alone count as one.
    """
    from pipeline.stages.compare import CompareRequest, compare_runs

    emit(compare_runs(CompareRequest(references, split, every_pair, homophones, top), roots), as_json)


@click.command("report")
@click.argument("references", metavar="RUN[@DECODER]...", nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("report.html"),
    show_default=True,
    help="the page to write",
)
@click.option("--force", is_flag=True, help="replace a page that is there")
@click.option(
    "--homophones", type=click.Path(path_type=Path, dir_okay=False), help="a list, as `compare` takes it"
)
@with_roots("runs", "cache")
@json_option
def report(
    references: tuple[str, ...], out: Path, force: bool, homophones: Path | None, roots: Roots, as_json: bool
) -> None:
    """Write one self-contained page on RUNs: rates with intervals, curves, cost, alignments, settings.

    RUN is a run, the JSON of one made elsewhere, or a ladder's folder, which means all its runs.
    """
    from pipeline.stages.report import write_report

    emit(write_report(references, out, roots, homophones, force), as_json)


@click.command("export")
@click.argument("run")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@average_option
@average_of_option
@with_roots("runs")
@json_option
def export(run: str, folder: Path, average_count: int, average_of: str, roots: Roots, as_json: bool) -> None:
    """Write RUN's inference model to DIR: safetensors, TOML and units, for `student.load_model(DIR)`."""
    from pipeline.stages.runs import export_run

    emit(export_run(run_folder(run, roots), folder, average_count, average_of), as_json)


def run_folder(run: str, roots: Roots) -> Path:
    """A run is a folder, or the name of one below the runs root."""
    return Path(run) if Path(run).is_dir() else roots.runs / run
