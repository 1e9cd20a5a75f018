"""Whole runs with tiny models: they learn, log every term, and leave a finished folder."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import ctc_alone, figures_of, tiny_config

from student.config import ObjectiveConfig
from student.data.manifest import read_manifest, write_manifest
from student.data.sampler import BatchSampler
from student.training.checkpoint import load_checkpoint, saved_steps
from student.training.trainer import TrainingJob, train

pytestmark = pytest.mark.usefixtures("same_threads_afterwards")


@pytest.mark.slow
def test_ctc_alone_learns_the_tones(job: TrainingJob, tmp_path: Path) -> None:
    settings = {"max_steps": 60, "batch_seconds": 20, "micro_batch_seconds": 20, "warmup_steps": 15}
    learner = ctc_alone(job, **settings, evaluate_every_steps=30, checkpoint_every_steps=100)
    result = train(replace(learner, run_dir=tmp_path))
    assert result.dev_wer is not None and result.dev_wer < 0.6
    assert result.parameters == result.inference_parameters
    assert set(figures_of(tmp_path)[0]) >= {"loss", "ctc", "ctc_tap1", "learning_rate", "gradient_norm"}
    assert not any(name.startswith(("ce_", "kd_")) for name in figures_of(tmp_path)[0])
    assert [entry["step"] for entry in figures_of(tmp_path, "dev")] == [30, 60]


def test_distillation_from_the_cache_trains_every_term_and_leaves_no_decoder(
    job: TrainingJob, tmp_path: Path
) -> None:
    result = train(replace(job, run_dir=tmp_path))
    first, dev = figures_of(tmp_path)[0], figures_of(tmp_path, "dev")[-1]
    terms = {f"{term}_{layer}" for term in ("ce", "kd") for layer in ("tap1", "final")}
    assert terms | {"ctc", "ctc_tap1"} <= first.keys()
    assert terms | {"loss", "wer", "wer_tap1", "cer"} <= dev.keys()
    assert 0 <= dev["accuracy_final"] <= 1 and 0 <= dev["agreement_tap1"] <= 1
    last = figures_of(tmp_path)[-1]
    assert all(last[term] < first[term] for term in ("ctc", "ce_final", "kd_final"))
    final = load_checkpoint(tmp_path / "final.pt")
    assert not any("decoder" in name for name in final.model) and not final.optimiser
    assert result.inference_parameters < result.parameters
    assert result.cache_fingerprint == final.cache_fingerprint != ""
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for kind, figures in (("train", first), ("dev", dev)):
        for name in figures.keys() - {"step", "kind"}:
            shown = {event.step: event.value for event in board.Scalars(f"{kind}/{name}")}
            assert shown[figures["step"]] == pytest.approx(figures[name], rel=1e-6)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_says_so_and_changes_nothing(job: TrainingJob, tmp_path: Path) -> None:
    short = replace(ctc_alone(job, max_steps=2), run_dir=tmp_path)
    first = train(short)
    before = contents(tmp_path)
    again = train(short)
    assert not first.already_finished and replace(again, already_finished=False) == first
    assert {path: data for path, data in contents(tmp_path).items() if path.name != ".lock"} == {
        path: data for path, data in before.items() if path.name != ".lock"
    }


def test_code_that_is_not_installed_saves_its_checkpoints_without_its_version(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = importlib.metadata.version

    def version(name: str) -> str:
        if name == "bert2ctc":
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    train(replace(ctc_alone(job, max_steps=1), run_dir=tmp_path))
    versions = load_checkpoint(tmp_path / "final.pt").versions
    assert versions["bert2ctc"] == "" and versions["torch"] == known("torch")


def test_checkpoints_are_pruned_to_the_last_few_and_the_best(job: TrainingJob, tmp_path: Path) -> None:
    many = ctc_alone(job, max_steps=6, checkpoint_every_steps=1, evaluate_every_steps=100, keep_checkpoints=2)
    train(replace(many, run_dir=tmp_path))
    assert saved_steps(tmp_path) == [5, 6]


def test_dev_outside_the_cache_is_measured_without_decoders(job: TrainingJob, tmp_path: Path) -> None:
    assert job.dev_manifest is not None
    utterances = read_manifest(job.dev_manifest)
    write_manifest(tmp_path / "dev.jsonl", [replace(utterances[0], text="red red red"), *utterances[1:]])
    short = replace(
        job,
        config=tiny_config(max_steps=1),
        dev_manifest=tmp_path / "dev.jsonl",
        run_dir=tmp_path / "run",
    )
    train(short)
    (dev,) = figures_of(short.run_dir, "dev")
    assert {"wer", "ctc"} <= dev.keys() and not {"loss", "accuracy_final"} & dev.keys()
    assert "the cache lacks 1 of" in (short.run_dir / "log.txt").read_text(encoding="utf-8")


def test_hard_labels_take_their_pieces_from_the_cache_and_no_distribution(
    job: TrainingJob, tmp_path: Path
) -> None:
    config = tiny_config(ObjectiveConfig(distillation_weight=0.0, top_k=6), max_steps=1)
    train(replace(job, config=config, run_dir=tmp_path))
    (first,) = figures_of(tmp_path)
    assert "ce_final" in first and not any(name.startswith("kd_") for name in first)


def test_utterances_with_more_units_than_frames_are_left_out_and_counted(
    job: TrainingJob, tmp_path: Path
) -> None:
    utterances = read_manifest(job.train_manifest)
    crowded = replace(utterances[0], text=" ".join(["the red flower"] * 20))
    write_manifest(tmp_path / "train.jsonl", [crowded, *utterances[1:]])
    short = ctc_alone(job, max_steps=1)
    run = replace(short, train_manifest=tmp_path / "train.jsonl", run_dir=tmp_path / "run")
    plain = train(replace(short, run_dir=tmp_path / "plain"))
    assert train(run).left_out_utterances == plain.left_out_utterances + 1


def test_the_learning_rate_rises_in_a_line_and_ends_at_its_fraction() -> None:
    from student.training.optimisation.optimiser import learning_rate

    trainer = tiny_config(max_steps=100, warmup_steps=10).trainer
    assert learning_rate(5, trainer) == pytest.approx(trainer.learning_rate / 2)
    assert learning_rate(10, trainer) == pytest.approx(trainer.learning_rate)
    assert learning_rate(100, trainer) == pytest.approx(
        trainer.learning_rate * trainer.final_learning_rate_fraction
    )


def test_accumulated_micro_batches_equal_one_batch(job: TrainingJob, tmp_path: Path) -> None:
    """The same utterances in one step, in one piece or in several: the same gradient, to rounding."""
    norms = []
    for micro in (1000.0, 6.0):
        config = ctc_alone(job, max_steps=1, batch_seconds=1000, micro_batch_seconds=micro)
        train(replace(config, run_dir=tmp_path / str(micro)))
        norms.append(figures_of(tmp_path / str(micro))[0])
    sampler = BatchSampler(
        seconds_of=lambda epoch: np.array([u.seconds for u in read_manifest(job.train_manifest)]),
        batch_seconds=1000,
        micro_batch_seconds=6,
        seed=1,
    )
    assert len(sampler.epoch(0)) == 1 and len(sampler.epoch(0)[0].micro_batches) > 3
    assert norms[0]["loss"] == pytest.approx(norms[1]["loss"], rel=1e-4)
    assert norms[0]["gradient_norm"] == pytest.approx(norms[1]["gradient_norm"], rel=1e-4)
