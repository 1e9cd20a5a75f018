"""`bert2ctc tune` and the options of a decoder: parsing only; heavy things are imported inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pipeline.commands.runs import average_of_option, average_option, run_folder
from pipeline.console import emit, json_option, with_roots
from pipeline.paths import Roots
from student.decoding.names import DECODERS, FUSED, GREEDY

_FILE = click.Path(path_type=Path)

label_option = click.option(
    "--label", default="", metavar="NAME", help="of weights and results beside others of one decoder"
)


def decoder_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --decoder, --label, --lm, --lexicon and --reuse."""
    for option in (
        click.option("--reuse", is_flag=True, help="what equal inputs gave before is taken as it was"),
        click.option("--lexicon", type=_FILE, help="words that `words` may read; default: as tuned"),
        click.option("--lm", "language_model", type=_FILE, help="the language model; default: as tuned"),
        label_option,
        click.option(
            "--decoder",
            "decoders",
            type=click.Choice(DECODERS),
            multiple=True,
            default=(GREEDY,),
            show_default=True,
            help="several share one pass of the encoder",
        ),
    ):
        command = option(command)
    return command


def _beams(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, int]:
    """Decoder -> hypotheses, of `N` for all and `DECODER=N` for one."""
    beams: dict[str, int] = {}
    for one in given:
        decoder, _, count = one.rpartition("=")
        if (decoder and decoder not in FUSED) or not count.isascii() or not count.isdecimal():
            raise click.BadParameter(f"{one!r} is neither N nor one of {', '.join(FUSED)} with =N")
        beams |= dict.fromkeys([decoder] if decoder else FUSED, int(count))
    return beams


@click.command("tune")
@click.argument("run")
@click.option("--beam-ngram", type=_FILE, metavar="ARPA", help="tune beam_ngram with this n-gram of units")
@click.option("--beam-lm", type=_FILE, metavar="FOLDER", help="tune beam_lm with this network")
@click.option("--words", type=_FILE, metavar="ARPA", help="tune words with this n-gram of words")
@click.option("--lexicon", type=_FILE, help="words that `words` may read; default: all of its n-gram")
@click.option(
    "--beam",
    multiple=True,
    metavar="[DECODER=]N",
    callback=_beams,
    help="hypotheses that are kept; default: each decoder's own",
)
@click.option("--utterances", default=0, metavar="N", help="of dev, evenly spread; default: all")
@label_option
@click.option("--reuse", is_flag=True, help="weights that were tuned from equal inputs stay as they are")
@click.option("--device", default="auto", help="auto, cpu, cuda or mps")
@average_option
@average_of_option
@with_roots("data", "runs")
@json_option
def tune(run: str, roots: Roots, as_json: bool, **options: Any) -> None:
    """Search the weights of RUN's decoders with language models on its dev split; `evaluate` uses them."""
    from pipeline.stages.tune import tune_run

    emit(tune_run(run_folder(run, roots), roots, **options), as_json)
