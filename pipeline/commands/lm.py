"""The commands `bert2ctc lm ...`: parsing only."""

from __future__ import annotations

import click

from pipeline.console import config_argument, emit, json_option, set_option, with_roots
from pipeline.paths import Roots


@click.group()
def lm() -> None:
    """External language models, which decoders take: n-grams, and a small causal network."""


without_transcripts = click.option(
    "--without-transcripts", is_flag=True, help="of the text alone, without the training transcripts"
)


def _overrides(overrides: tuple[str, ...], without: bool) -> tuple[str, ...]:
    return (*overrides, "language_model.transcripts=false") if without else overrides


@lm.command("ngram")
@config_argument
@set_option
@click.option(
    "--of", "kind", type=click.Choice(["words", "units"]), default="words", show_default=True,
    help="what its n-grams are made of",
)  # fmt: skip
@without_transcripts
@click.option("--dry-run", is_flag=True, help="tokens and memory only")
@with_roots("data", "runs")
@json_option
def ngram(
    config: str,
    overrides: tuple[str, ...],
    kind: str,
    without_transcripts: bool,
    dry_run: bool,
    roots: Roots,
    as_json: bool,
) -> None:
    """Estimate an ARPA file of CONFIG's text by interpolated modified Kneser-Ney, as lmplz does."""
    from pipeline.config import load_config

    loaded = load_config(config, _overrides(overrides, without_transcripts))
    from pipeline.stages.language_model import estimate_ngram

    emit(estimate_ngram(loaded, roots, kind, dry_run), as_json)


@lm.command("train")
@config_argument
@set_option
@without_transcripts
@with_roots("data", "runs", "scratch")
@json_option
def train(
    config: str, overrides: tuple[str, ...], without_transcripts: bool, roots: Roots, as_json: bool
) -> None:
    """Train the causal network of CONFIG over its units; a killed training goes on where it was."""
    from pipeline.config import load_config

    loaded = load_config(config, _overrides(overrides, without_transcripts))
    from pipeline.stages.language_model import train_language_model

    emit(train_language_model(loaded, roots), as_json)


@lm.command("ls")
@with_roots("runs")
@json_option
def list_all(roots: Roots, as_json: bool) -> None:
    """List the finished language models with their figures."""
    from pipeline.stages.language_model import list_language_models

    emit(list_language_models(roots), as_json)
