"""The stages `bert2ctc data ...`: fetch a corpus or speak the demo's, check it, write manifests."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.config import ExperimentConfig, load_config
from pipeline.console import Report, table
from pipeline.corpus.download import download, plan_download
from pipeline.corpus.read import CorpusLocation, read_split
from pipeline.errors import PipelineError
from pipeline.paths import Roots, prepared_folder

LM_TEXT = "lm-text"


def download_corpus(
    subsets: Sequence[str],
    config_reference: str | None,
    base_url: str,
    lm_text: bool,
    dry_run: bool,
    roots: Roots,
) -> Report:
    """Fetch the named subsets, or those of a config whose utterances are not all there yet."""
    started = time.monotonic()
    names = [*subsets, *([LM_TEXT] if lm_text else [])]
    if config_reference:
        config = load_config(config_reference)
        if _is_complete(config, roots.data):
            line = (
                f"{roots.data / config.data.corpus}: holds every utterance of {config.name}, nothing to fetch"
            )
            return Report({"fetched": [], "seconds": time.monotonic() - started}, [line])
        names += config.data.download
    if not names:
        raise PipelineError(
            "nothing named to fetch; give subsets (dev-clean, train-clean-100, ...) or --config"
        )
    if dry_run:
        plan = plan_download(names, roots.data)
        return Report(asdict(plan), [plan.describe()])
    plan = download(names, roots.data, base_url)
    return Report({"fetched": list(plan.names), "seconds": time.monotonic() - started})


def make_demo_corpus(config: ExperimentConfig, roots: Roots) -> Report:
    """Speak the synthetic corpus of the config below the data root, unless an equal one is there."""
    from pipeline.demo.corpus import make_corpus

    if config.demo_corpus is None:
        raise PipelineError(
            f"config {config.name!r} has no [demo_corpus]; use "
            f"`bert2ctc data download --config {shlex.quote(config.reference)}`"
        )
    started = time.monotonic()
    made = make_corpus(config.demo_corpus, roots.data / config.data.corpus)
    seconds = time.monotonic() - started
    result = {**made.summary, "path": str(made.path), "is_reused": made.is_reused, "seconds": seconds}
    return Report(result, [made.describe()])


def prepare_data(config: ExperimentConfig, roots: Roots, leave_out_bad: bool) -> Report:
    """Validate the corpus, write manifests, train the units; nothing is done twice."""
    from pipeline.corpus.prepare import prepare

    started = time.monotonic()
    prepared = prepare(config, roots.data, prepared_folder(config, roots), leave_out_bad)
    rows = [
        [
            name,
            f"{facts['utterances']:,}",
            f"{facts['hours']:.2f}",
            f"{facts['words']:,}",
            f"{facts['speakers']:,}",
        ]
        for name, facts in prepared.splits.items()
    ]
    reused = "already prepared, nothing to do" if prepared.is_reused else "prepared"
    lines: list[Any] = [
        table("", ["split", "utterances", "hours", "words", "speakers"], rows),
        f"{prepared.num_units} CTC units; {reused}: {prepared.path}",
        *(f"left out: {count} {reason}" for reason, count in prepared.left_out.items()),
        *(f"warning: {warning}" for warning in prepared.warnings),
    ]
    result = {**asdict(prepared), "path": str(prepared.path), "seconds": time.monotonic() - started}
    return Report(result, lines)


def _is_complete(config: ExperimentConfig, data_root: Path) -> bool:
    """True where every split is read without a missing utterance, wherever it came from."""
    location = CorpusLocation(data_root, config.data.corpus, config.folder)
    try:
        return not any(read_split(name, split, location)[1] for name, split in config.data.splits.items())
    except PipelineError:
        return False
