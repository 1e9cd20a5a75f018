"""A branch that begins later: until then the run is one of CTC alone, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import CTC_ALONE, DISTILLED, tiny_config, tiny_job

from student.config import ObjectiveConfig
from student.training.checkpoint import load_checkpoint, step_path
from student.training.trainer import TrainingJob, train

TIMED = {"audio_seconds_per_second", "data_wait_seconds"}
BEGINS, STEPS = 3, 5


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingJob]:
    threads = torch.get_num_threads()
    yield tiny_job(tmp_path_factory.mktemp("later"), num_train=24, num_dev=4)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def later(job: TrainingJob) -> Path:
    trained(job, replace(DISTILLED, branch_from_step=BEGINS), job.run_dir)
    return job.run_dir


def trained(job: TrainingJob, objective: ObjectiveConfig, run_dir: Path) -> None:
    """Dropout, SpecAugment, speed and accumulation on."""
    config = tiny_config(objective, max_steps=STEPS, checkpoint_every_steps=1, keep_checkpoints=STEPS)
    config = replace(config, trainer=replace(config.trainer, micro_batch_seconds=6.0))
    train(replace(job, config=config, run_dir=run_dir))


def entries(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found = [entry for entry in map(json.loads, lines) if entry["kind"] == kind]
    return [{name: value for name, value in entry.items() if name not in TIMED} for entry in found]


def test_until_then_it_is_the_run_of_ctc_alone_bit_for_bit(
    job: TrainingJob, later: Path, tmp_path: Path
) -> None:
    trained(replace(job, cache_path=None), CTC_ALONE, tmp_path)
    assert entries(tmp_path, "train")[:BEGINS] == entries(later, "train")[:BEGINS]
    assert entries(tmp_path, "dev")[0] == entries(later, "dev")[0]
    for step in range(1, BEGINS + 1):
        alone, with_branch = (load_checkpoint(step_path(run, step)).model for run in (tmp_path, later))
        assert not any(name.startswith("decoders.") for name in alone)
        assert all(torch.equal(tensor, with_branch[name]) for name, tensor in alone.items())
    last, other = (load_checkpoint(step_path(run, BEGINS + 1)).model for run in (tmp_path, later))
    assert not torch.equal(last["ctc_head.weight"], other["ctc_head.weight"])


def test_decoders_stand_still_until_then_and_learn_from_there_on(later: Path) -> None:
    weights = [load_checkpoint(step_path(later, step)).model for step in range(1, STEPS + 1)]
    names = [name for name in weights[0] if name.startswith("decoders.")]
    assert names
    for name in names:
        assert torch.equal(weights[0][name], weights[BEGINS - 1][name])
    assert all(not torch.equal(weights[BEGINS - 1][n], weights[BEGINS][n]) for n in names if "weight" in n)
    figures = entries(later, "train")
    assert ["ce_final" in entry for entry in figures] == [step >= BEGINS for step in range(STEPS)]


def test_dev_and_probe_say_nothing_of_a_branch_that_has_not_trained(later: Path) -> None:
    assert [entry["step"] for entry in entries(later, "gradient")] == [BEGINS, STEPS]
    first, last = entries(later, "dev")
    assert first["step"] == BEGINS and not {"kd_final", "accuracy_final"} & first.keys()
    assert {"loss", "kd_final", "accuracy_deaf_final"} <= last.keys()


def test_what_counts_as_an_exploded_loss_is_learnt_anew(later: Path) -> None:
    watched = [load_checkpoint(step_path(later, n)).spike_detector["num_steps"] for n in range(1, STEPS + 1)]
    assert watched == [1, 2, 3, 1, 2]


def test_a_branch_that_would_never_begin_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"branch_from_step 5 is not below trainer\.max_steps 5.*ctc_weight=1"
    ):
        tiny_config(replace(DISTILLED, branch_from_step=5), max_steps=5)
    tiny_config(replace(CTC_ALONE, branch_from_step=5), max_steps=5)
