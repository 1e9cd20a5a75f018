"""Whole runs in seconds: tones for letters, a teacher that nearly knows every word, a two-layer student."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from fakes import WORDS, sentences, write_corpus
from synthetic_cache import SyntheticTeacher, make, plan_of

from student.config import (
    AugmentationConfig,
    ConformerConfig,
    DecoderConfig,
    ObjectiveConfig,
    StudentConfig,
    TrainerConfig,
)
from student.data.manifest import Utterance, read_manifest, write_manifest
from student.data.units import train_units
from student.loss.objective import Objective
from student.training.log import RunLog
from student.training.trainer import TrainingJob
from teacher_cache.config import CacheConfig
from teacher_cache.passages import Passage, passages_of

CACHE_CONFIG = CacheConfig(top_k=8)
CTC_ALONE = ObjectiveConfig(ctc_weight=1.0, distillation_weight=0.0)
DISTILLED = ObjectiveConfig(top_k=6)
TIMED = {"audio_seconds_per_second", "data_wait_seconds"}


@dataclass(frozen=True)
class WordTeacher(SyntheticTeacher):
    """One piece a word; the word that stands there is likely."""

    def pieces(self) -> list[str]:
        return [*super().pieces()[: self.num_special], *dict.fromkeys(WORDS)][: self.vocab_size] + [
            f"piece{number}é" for number in range(self.num_special + len(set(WORDS)), self.vocab_size)
        ]

    def gold(self, passage: Passage) -> np.ndarray:
        index = {word: number for number, word in enumerate(dict.fromkeys(WORDS))}
        return np.array([self.num_special + index[word] for word in passage.text.split()])

    def logprobs(self, passage: Passage) -> np.ndarray:
        logits = super().logprobs(passage)
        logits[np.arange(len(logits)), self.gold(passage)] += 12
        return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def write_split(data_root: Path, path: Path, texts: list[str], seed: int) -> Path:
    """A manifest of tones below the data root."""
    folder = write_corpus(data_root, texts, seed=seed, folder=path.stem)
    utterances = []
    for transcripts in sorted(folder.glob("*/*/*.trans.txt")):
        for position, line in enumerate(transcripts.read_text(encoding="utf-8").splitlines()):
            utterance_id, text = line.split(" ", 1)
            audio = transcripts.parent / f"{utterance_id}.flac"
            utterances.append(
                Utterance(
                    id=utterance_id,
                    audio=str(audio.relative_to(data_root)),
                    text=text.lower(),
                    seconds=soundfile.info(audio).duration,
                    chapter=transcripts.stem,
                    position=position,
                )
            )
    write_manifest(path, utterances)
    return path


def tiny_config(objective: ObjectiveConfig = DISTILLED, **trainer: Any) -> StudentConfig:
    """Float32, one thread; keyword arguments go to the [trainer] table."""
    settings: dict[str, Any] = {
        "max_steps": 6,
        "batch_seconds": 16,
        "micro_batch_seconds": 8,
        "learning_rate": 3e-3,
        "warmup_steps": 10,
        "precision": "float32",
        "device": "cpu",
        "threads": 1,
        "checkpoint_every_steps": 2,
        "evaluate_every_steps": 3,
    }
    return StudentConfig(
        augmentation=AugmentationConfig(
            speed_factors=(0.9, 1.0, 1.1),
            frequency_masks=1,
            frequency_mask_bins=8,
            time_masks=1,
        ),
        conformer=ConformerConfig(
            num_layers=2,
            model_dim=64,
            num_heads=2,
            feed_forward_dim=128,
            conv_kernel_frames=7,
            subsampling_channels=16,
            dropout=0.1,
            taps=(1,),
        ),
        decoder=DecoderConfig(num_layers=1, num_heads=2, feed_forward_dim=64, min_count=2),
        objective=objective,
        trainer=TrainerConfig(**settings | trainer),
    )


def listening(config: StudentConfig) -> StudentConfig:
    """The same student with everything on that makes its decoders listen, one thing after the other."""
    return replace(
        config,
        decoder=replace(config.decoder, history=0.5, attention="aligned", aligned_from_step=2, separate=True),
        objective=replace(config.objective, branch_share=0.4, share_every_steps=2, branch_from_step=1),
        trainer=replace(config.trainer, average_decay=0.8),
    )


def tiny_job(folder: Path, num_train: int = 60, num_dev: int = 10, run: str = "run") -> TrainingJob:
    """Corpus, units and a cache over train and dev below `folder`, and a job that uses them all."""
    data = folder / "data"
    train = write_split(data, folder / "train.jsonl", sentences(num_train, seed=0, max_words=4), 0)
    texts = [text for text in sentences(5 * num_dev, seed=1, max_words=4) if " " in text]
    dev = write_split(data, folder / "dev.jsonl", texts[:num_dev], 500)
    train_units([u.text for u in read_manifest(train)], folder / "units.model", 28, "char")
    passages = {
        passage.digest: passage
        for manifest in (train, dev)
        for passage in passages_of(read_manifest(manifest), CACHE_CONFIG)
    }
    cache = make(folder / "caches", plan_of(list(passages.values()), WordTeacher(), CACHE_CONFIG))
    return TrainingJob(
        config=tiny_config(),
        train_manifest=train,
        dev_manifest=dev,
        units_model=folder / "units.model",
        data_root=data,
        cache_path=cache,
        cache_config=CACHE_CONFIG,
        run_dir=folder / run,
    )


def ctc_alone(job: TrainingJob, **trainer: Any) -> TrainingJob:
    """The same job without decoders, teacher and cache."""
    config = tiny_config(CTC_ALONE, **trainer)
    still = replace(config.augmentation, speed_factors=(1.0,), time_masks=0, frequency_masks=0)
    still_config = replace(config, augmentation=still, conformer=replace(config.conformer, dropout=0.0))
    return replace(job, config=still_config, cache_path=None)


def multiplied(objective: Objective, factor: float) -> Objective:
    """The same with loss and terms times a factor, as a batch that explodes or is no number gives."""
    terms = {name: term * factor for name, term in objective.terms.items()}
    return replace(objective, loss=objective.loss * factor, terms=terms)


def figures_of(run_dir: Path, kind: str = "train") -> list[dict[str, Any]]:
    """The entries of that kind in metrics.jsonl, without what a clock decides."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [entry for entry in map(json.loads, lines) if entry["kind"] == kind]
    return [{name: value for name, value in entry.items() if name not in TIMED} for entry in entries]


def send_at_step(monkeypatch: pytest.MonkeyPatch, number: signal.Signals, step: int) -> None:
    """Have the process signal itself while it logs that training step."""
    original = RunLog.figures

    def figures(log: RunLog, at_step: int, kind: str, values: Mapping[str, float]) -> None:
        original(log, at_step, kind, values)
        if kind == "train" and at_step == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(RunLog, "figures", figures)
