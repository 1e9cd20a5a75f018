"""`bert2ctc tune` and the options of a decoder: parsing only; heavy things are imported inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline.cli_runs import average_of_option, average_option, run_folder
from pipeline.console import emit, json_option, with_roots
from pipeline.paths import Roots

DECODERS = ("greedy", "beam", "beam_ngram", "beam_lm", "words")
_FILE = click.Path(path_type=Path)

label_option = click.option(
    "--label", default="", metavar="NAME", help="of weights and results beside others of one decoder"
)


def decoder_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --decoder, --label, --lm and --lexicon."""
    for option in (
        click.option("--lexicon", type=_FILE, help="words that `words` may read; default: as tuned"),
        click.option("--lm", "language_model", type=_FILE, help="the language model; default: as tuned"),
        label_option,
        click.option("--decoder", type=click.Choice(DECODERS), default="greedy", show_default=True),
    ):
        command = option(command)
    return command


@click.command("tune")
@click.argument("run")
@click.option("--beam-ngram", type=_FILE, metavar="ARPA", help="tune beam_ngram with this n-gram of units")
@click.option("--beam-lm", type=_FILE, metavar="FOLDER", help="tune beam_lm with this network")
@click.option("--words", type=_FILE, metavar="ARPA", help="tune words with this n-gram of words")
@click.option("--lexicon", type=_FILE, help="words that `words` may read; default: all of its n-gram")
@click.option("--beam", default=0, metavar="N", help="hypotheses that are kept; default: the decoder's own")
@click.option("--utterances", default=0, metavar="N", help="of dev, evenly spread; default: all")
@label_option
@click.option("--device", default="auto", help="auto, cpu, cuda or mps")
@average_option
@average_of_option
@with_roots("data", "runs")
@json_option
def tune(run: str, roots: Roots, as_json: bool, **options: Any) -> None:
    """Search the weights of RUN's decoders with language models on its dev split; `evaluate` uses them."""
    from pipeline.stages.tune import tune_run

    emit(tune_run(run_folder(run, roots), roots, **options), as_json)
