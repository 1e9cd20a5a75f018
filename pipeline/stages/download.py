"""The stage `bert2ctc data download`: what a config needs, and is not there in any form."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.config import ExperimentConfig, load_config
from pipeline.console import Report
from pipeline.corpus.download import download, plan_download
from pipeline.corpus.read import CorpusPlace, read_split
from pipeline.errors import PipelineError
from pipeline.paths import Roots

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


def _is_complete(config: ExperimentConfig, data_root: Path) -> bool:
    """True where every split is read without a missing utterance, wherever it came from."""
    place = CorpusPlace(data_root, config.data.corpus, config.folder)
    try:
        return not any(read_split(name, split, place)[1] for name, split in config.data.splits.items())
    except PipelineError:
        return False
