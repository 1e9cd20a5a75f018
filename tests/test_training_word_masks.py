"""Masks begin when the config says, and grow to the length of words where dev shows that it is time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import ctc_alone, tiny_job

from student.config import AugmentationConfig
from student.errors import StudentError
from student.training import measurements
from student.training.checkpoint import load_checkpoint, step_path
from student.training.trainer import TrainingJob, train

SAID = "dev CER of 0.3 or less: time masks are as long as words from here on"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingJob]:
    threads = torch.get_num_threads()
    few = ctc_alone(
        tiny_job(tmp_path_factory.mktemp("words"), num_train=16, num_dev=2),
        max_steps=4, evaluate_every_steps=1, checkpoint_every_steps=1, keep_checkpoints=4,
    )  # fmt: skip
    masked = AugmentationConfig(
        frequency_masks=0, time_masks=2, time_mask_fraction=0.2, word_masks_below_cer=0.3
    )
    yield replace(few, config=replace(few.config, augmentation=masked))
    torch.set_num_threads(threads)


def with_rates(monkeypatch: pytest.MonkeyPatch, rates: dict[int, float]) -> None:
    """Dev's CER by step; the rest is measured."""
    measure, order = measurements.dev_figures, iter(rates.values())
    monkeypatch.setattr(measurements, "dev_figures", lambda *a: measure(*a) | {"cer": next(order)})


def losses(run_dir: Path) -> list[float]:
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    entries: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return [entry["loss"] for entry in entries if entry["kind"] == "train"]


def test_they_begin_behind_the_first_low_enough_rate_and_stay_and_a_resumed_run_has_them_too(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never, whole, parts = (replace(job, run_dir=tmp_path / name) for name in ("never", "whole", "parts"))
    with monkeypatch.context() as context:
        with_rates(context, {1: 0.9, 2: 0.31, 3: 0.31, 4: 0.31})
        train(never)
    with monkeypatch.context() as context:
        with_rates(context, {1: 0.9, 2: 0.3, 3: 0.5, 4: 0.5})
        train(whole)
    assert losses(whole.run_dir)[:2] == losses(never.run_dir)[:2]
    assert losses(whole.run_dir)[2] != losses(never.run_dir)[2]
    assert SAID in (whole.run_dir / "log.txt").read_text(encoding="utf-8")
    assert SAID not in (never.run_dir / "log.txt").read_text(encoding="utf-8")
    shutil.copytree(whole.run_dir, parts.run_dir)
    for name in ("final.pt", "result.json"):
        (parts.run_dir / name).unlink()
    step_path(parts.run_dir, 4).unlink()
    with monkeypatch.context() as context:
        with_rates(context, {4: 0.5})
        train(parts)
    assert losses(parts.run_dir) == losses(whole.run_dir)
    one, other = (load_checkpoint(step_path(run.run_dir, 4)) for run in (whole, parts))
    assert all(torch.equal(tensor, other.model[name]) for name, tensor in one.model.items())


def test_until_they_begin_the_run_is_one_without_masks(job: TrainingJob, tmp_path: Path) -> None:
    masked = replace(job.config.augmentation, word_masks_below_cer=0.0, time_mask_fraction=0.5)
    found = {}
    for name, changed in {"none": {"time_masks": 0}, "later": {"masks_from_step": 2}}.items():
        config = replace(job.config, augmentation=replace(masked, **changed))
        train(replace(job, config=config, run_dir=tmp_path / name))
        found[name] = losses(tmp_path / name)
    assert found["none"][:2] == found["later"][:2]
    assert all(one != other for one, other in zip(found["none"][2:], found["later"][2:], strict=True))


def test_they_need_a_dev_split(job: TrainingJob, tmp_path: Path) -> None:
    with pytest.raises(
        StudentError, match=r"word_masks_below_cer needs a dev split; name one in data\.splits"
    ):
        train(replace(job, dev_manifest=None, run_dir=tmp_path))


@pytest.mark.parametrize("seconds", [(0.3,), (0.5, 0.3), (0.1, 0.2, 0.3)])
def test_a_shortest_and_a_longest_must_be_named(seconds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must be two, the longer last"):
        AugmentationConfig(word_mask_seconds=seconds)
