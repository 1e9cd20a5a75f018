"""The command `bert2ctc`: parsing and error text only; everything heavy is imported inside a command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from pipeline.commands.cache import cache
from pipeline.commands.decoding import decoder_options, tune
from pipeline.commands.lm import lm
from pipeline.commands.runs import (
    average_of_option,
    average_option,
    compare,
    export,
    report,
    run_folder,
    runs,
)
from pipeline.console import DomainErrorGroup, config_argument, emit, json_option, set_option, with_roots
from pipeline.errors import PipelineError
from pipeline.paths import Roots


@click.group(cls=DomainErrorGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bert2ctc")
def main() -> None:
    """A masked language model's knowledge inside a CTC recogniser.

    CONFIG is a shipped config's name (demo, librispeech-mini, librispeech-100, ...) or a TOML file.
    """


@main.group()
def data() -> None:
    """Corpora: fetch, make, validate."""


@data.command("download")
@click.argument("subsets", nargs=-1)
@click.option("--config", "config_reference", help="fetch what this config names")
@click.option("--base-url", default="", help="a mirror of openslr.org/resources/12: a URL or a folder")
@click.option("--lm-text", is_flag=True, help="the 803 million words of the LibriSpeech LM corpus too")
@click.option("--dry-run", is_flag=True, help="sizes and free space only")
@with_roots("data")
@json_option
def data_download(as_json: bool, **options: Any) -> None:
    """Fetch LibriSpeech SUBSETS below the data root, verified and extracted."""
    from pipeline.stages.data import download_corpus

    emit(download_corpus(**options), as_json)


@data.command("demo")
@config_argument
@set_option
@with_roots("data")
@json_option
def data_demo(config: str, overrides: tuple[str, ...], roots: Roots, as_json: bool) -> None:
    """Make the synthetic corpus of CONFIG below the data root."""
    from pipeline.config import load_config

    loaded = load_config(config, overrides)  # before anything heavy is imported
    from pipeline.stages.data import make_demo_corpus

    emit(make_demo_corpus(loaded, roots), as_json)


@data.command("prepare")
@config_argument
@set_option
@click.option("--leave-out-bad", is_flag=True, help="leave bad utterances out instead of stopping")
@with_roots("data", "runs")
@json_option
def data_prepare(
    config: str, overrides: tuple[str, ...], leave_out_bad: bool, roots: Roots, as_json: bool
) -> None:
    """Validate every utterance of CONFIG, write manifests, train the CTC units."""
    from pipeline.config import load_config

    loaded = load_config(config, overrides)  # before anything heavy is imported
    from pipeline.stages.data import prepare_data

    emit(prepare_data(loaded, roots, leave_out_bad), as_json)


@main.group()
def teacher() -> None:
    """The masked language model that labels the transcripts."""


@teacher.command("train")
@config_argument
@set_option
@with_roots("data", "runs", "scratch")
@json_option
def teacher_train(config: str, overrides: tuple[str, ...], roots: Roots, as_json: bool) -> None:
    """Train or adapt the masked language model of CONFIG; never on transcripts that it will label."""
    from pipeline.config import load_config

    loaded = load_config(config, overrides)  # before anything heavy is imported
    from pipeline.stages.teacher import train_teacher

    emit(train_teacher(loaded, roots), as_json)


@main.command("train")
@config_argument
@set_option
@click.option("--run-dir", type=click.Path(path_type=Path), help="default: <runs root>/<config name>")
@click.option(
    "--cache",
    "cache_reference",
    default="",
    help="a fingerprint, a name, a path, or a URL to pull it from first; default: the config's",
)
@click.option("--dry-run", is_flag=True, help="parameters, memory, steps, hours and disk, from a few steps")
@click.option("--gpus", "num_ranks", default=1, show_default=True, help="processes, started by torchrun")
@with_roots("data", "cache", "runs")
@json_option
def train(
    config: str,
    overrides: tuple[str, ...],
    run_dir: Path | None,
    cache_reference: str,
    dry_run: bool,
    num_ranks: int,
    roots: Roots,
    as_json: bool,
) -> None:
    """Train the student of CONFIG against a finished teacher cache; the teacher itself is not needed."""
    from pipeline.config import load_config

    loaded = load_config(config, overrides)  # before anything heavy is imported
    if num_ranks != 1 and not dry_run:
        from pipeline.processes import launch_ranks
        from student.training.distributed import num_ranks_here

        if num_ranks_here() == 1:  # else this is a rank, which finds --gpus again
            raise SystemExit(launch_ranks(sys.argv[1:], num_ranks))
    from pipeline.stages.train import plan_training, train_student

    stage = plan_training if dry_run else train_student
    emit(stage(loaded, roots, run_dir or roots.runs / loaded.name, cache_reference), as_json)


@main.command("evaluate")
@click.argument("run")
@click.option("--split", "splits", multiple=True, help="default: every split but train")
@click.option("--device", default="auto", help="auto, cpu, cuda or mps")
@decoder_options
@average_option
@average_of_option
@with_roots("data", "runs")
@json_option
def evaluate(
    run: str, splits: tuple[str, ...], device: str, roots: Roots, as_json: bool, **options: Any
) -> None:
    """Decode splits with RUN's student and count word and character errors; taps are decoded greedily."""
    from pipeline.stages.evaluate import evaluate_run

    emit(evaluate_run(run_folder(run, roots), roots, splits, device, **options), as_json)


@main.command("transcribe")
@click.argument("run")
@click.argument("audio", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--device", default="auto", help="auto, cpu, cuda or mps")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "srt", "vtt", "ctm"]),
    default="text",
    show_default=True,
    help="all but text tell when each word was said",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="a folder of a file a recording, or the only one's file"
)
@click.option("--force", is_flag=True, help="replace files that are there")
@with_roots("runs")
@json_option
def transcribe(run: str, audio: tuple[Path, ...], roots: Roots, as_json: bool, **options: Any) -> None:
    """Write down what is said in AUDIO, files of any length or folders of them, with RUN's student."""
    from pipeline.stages.transcribe import transcribe_files, unread_line

    report = transcribe_files(run_folder(run, roots), audio, **options)
    emit(report, as_json)
    if line := unread_line(report.result):
        raise PipelineError(line)


@main.command("experiment")
@click.argument("ladder", default="demo")
@set_option
@click.option(
    "--jobs", default=1, show_default=True, metavar="N", help="students at a time, a core or a GPU each"
)
@click.option(
    "--with",
    "elsewhere",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="of JSON files by `bert2ctc runs pack RUN FILE`: rows of runs made elsewhere",
)
@with_roots("data", "cache", "runs", "scratch")
@json_option
def experiment(
    ladder: str, overrides: tuple[str, ...], jobs: int, elsewhere: Path | None, roots: Roots, as_json: bool
) -> None:
    """Several students, one table: run what LADDER lists, reusing all that is there."""
    from pipeline.experiments.run import run_experiment

    emit(run_experiment(ladder, roots, overrides, jobs, elsewhere), as_json)


for command in (cache, lm, runs, tune, compare, report, export):
    main.add_command(command)

if __name__ == "__main__":
    main()
