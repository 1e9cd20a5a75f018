"""Where things lie: the four roots, and below them prepared data, teachers and language models."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.files import FILES
from pipeline.normaliser import normaliser_identity
from teacher_cache.common.files import canonical_json

if TYPE_CHECKING:  # numpy loads only for the commands that read a config
    from pipeline.config import ExperimentConfig

_OF_THE_TEXT = (
    "transcripts", "max_sentences", "max_words", "overlap_words", "held_out_fraction", "seed",
)  # fmt: skip
_OF_A_KIND = {
    "words": ("word_order",),
    "units": ("unit_order",),
    "network": (
        "num_layers", "hidden_dim", "num_heads", "max_positions", "max_steps", "batch_size", "learning_rate",
        "warmup_fraction", "weight_decay", "dropout",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """Absolute folders; none of them needs to exist yet, and `data` may be read-only."""

    data: Path
    cache: Path
    runs: Path
    scratch: Path


def roots_from(options: Mapping[str, Path | None], environment: Mapping[str, str] = os.environ) -> Roots:
    """Each root from its option, else from BERT2CTC_<NAME>, else a folder below the working folder."""

    def root(name: str, default: str) -> Path:
        return Path(options.get(name) or environment.get(f"BERT2CTC_{name.upper()}") or default).absolute()

    return Roots(
        data=root("data", "data"),
        cache=root("cache", "caches"),
        runs=root("runs", "runs"),
        scratch=root("scratch", "scratch"),
    )


def prepared_folder(config: ExperimentConfig, roots: Roots) -> Path:
    """Where manifests and units of this [data] table lie; equal tables share them under any config's name."""
    from pipeline.config import as_tables

    data = {key: value for key, value in as_tables(config)["data"].items() if key != "download"}
    lists = {
        name: hashlib.sha256(FILES.bytes(config.folder / split.ids, "a list of utterance ids")).hexdigest()
        for name, split in config.data.splits.items()
        if split.ids and (config.folder / split.ids).is_file()
    }
    facts = canonical_json({"data": data, "lists": lists, "normaliser": normaliser_identity()})
    digest = hashlib.sha256(facts.encode()).hexdigest()[:8]
    return roots.runs / "prepared" / f"{Path(config.data.corpus).name or 'manifests'}-{digest}"


def own_teacher_folder(config: ExperimentConfig, roots: Roots) -> Path:
    """Where a teacher that is fetched or trained here lies, whether it is there yet or not."""
    name = config.teacher.name or config.teacher.model.replace("/", "--")
    return roots.runs / "teachers" / name


def language_model_folder(config: ExperimentConfig, roots: Roots, kind: str) -> Path:
    """Where a language model of a config lies, whether it is there yet or not; equal settings share one.

    kind : "words" or "units", an n-gram of these, or "network"
    """
    from pipeline.config import as_tables

    table = as_tables(config)["language_model"]
    decisive = {key: table[key] for key in (*_OF_THE_TEXT, *_OF_A_KIND[kind])}
    facts = {
        **decisive,
        "text": list(language_model_text(config)),
        "prepared": prepared_folder(config, roots).name,
    }
    digest = hashlib.sha256(canonical_json(facts).encode()).hexdigest()[:8]
    return roots.runs / "language_models" / f"{config.name}-{kind}-{digest}"


def language_model_text(config: ExperimentConfig) -> tuple[str, ...]:
    """The text files of a config's language models, below the data root: its own, else the teacher's."""
    training = config.teacher_training
    return config.language_model.text or (training.text if training else ())
