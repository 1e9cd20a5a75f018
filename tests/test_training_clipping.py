"""Clipping as the exception: relative to the norms that are usual, and resumed as it was."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import ctc_alone, tiny_job
from torch import nn

from student.config import TrainerConfig
from student.training.checkpoint import load_checkpoint, step_path
from student.training.optimisation.clipping import Clipping
from student.training.report import closing_lines
from student.training.trainer import TrainingJob, train

NORMS = st.lists(st.floats(1e-3, 1e6), min_size=20, max_size=60)


def clipping_of(clip: float = 0.0, ratio: float = 0.0, norms: list[float] | None = None) -> Clipping:
    clipping = Clipping(TrainerConfig(gradient_clip=clip, gradient_clip_ratio=ratio))
    for norm in norms or []:
        clipping.learn(norm)
    return clipping


@settings(deadline=None)
@given(NORMS, st.floats(1.5, 10), st.floats(1e-3, 1e3))
def test_the_limit_scales_with_the_norms(norms: list[float], ratio: float, factor: float) -> None:
    """A loss in another unit, summed over tokens or divided by them, is clipped in the same steps."""
    one = clipping_of(ratio=ratio, norms=norms)
    other = clipping_of(ratio=ratio, norms=[factor * norm for norm in norms])
    assert other.limit == pytest.approx(factor * one.limit, rel=1e-6)


@settings(deadline=None)
@given(st.floats(1e-3, 1e6), st.integers(20, 80), st.floats(1.5, 10))
def test_steady_norms_are_never_clipped(norm: float, count: int, ratio: float) -> None:
    assert clipping_of(ratio=ratio, norms=[norm] * count).limit == pytest.approx(ratio * norm)


def test_a_spike_hardly_moves_the_limit_and_a_lasting_rise_is_followed() -> None:
    usual = [100.0] * 100
    assert clipping_of(ratio=4, norms=[*usual, 1e9]).limit == pytest.approx(400 * 4**0.02)
    assert clipping_of(ratio=4, norms=[*usual, *[1000.0] * 100]).limit > 1000


def test_nothing_is_clipped_before_there_is_a_usual_norm_or_where_nothing_limits() -> None:
    assert clipping_of(ratio=4, norms=[1.0] * 19).limit == inf
    assert clipping_of().limit == clipping_of(norms=[1.0] * 50).limit == inf
    assert clipping_of(clip=5).limit == 5
    assert clipping_of(clip=5, ratio=4, norms=[1.0] * 50).limit == pytest.approx(4)
    assert clipping_of(clip=3, ratio=4, norms=[1.0] * 50).limit == 3


def test_what_is_no_norm_is_not_learnt_and_another_objective_is_learnt_anew() -> None:
    clipping = clipping_of(ratio=4, norms=[2.0] * 30)
    before = clipping.state()
    for norm in (nan, inf, 0.0):
        clipping.learn(norm)
    assert clipping.state() == before
    clipping.begin_anew()
    assert clipping.limit == inf and clipping.state() == clipping_of().state()


def test_it_goes_on_from_its_state_exactly() -> None:
    whole, parts = clipping_of(ratio=2, norms=[1.0, 3.0, 7.0] * 10), clipping_of(ratio=2)
    parts.restore(clipping_of(ratio=2, norms=[1.0, 3.0, 7.0] * 7).state())
    for norm in [1.0, 3.0, 7.0] * 3:
        parts.learn(norm)
    assert parts.limit == whole.limit and parts.state() == whole.state()


@pytest.mark.parametrize("clip", [0.0, 100.0])
def test_below_the_limit_a_gradient_keeps_its_bits(clip: float) -> None:
    weights = nn.Parameter(torch.zeros(7))
    weights.grad = torch.tensor([0.1, -0.7, 3.0, 1e-9, 2.0, -1.0, 0.3])
    before = weights.grad.clone()
    norm = clipping_of(clip=clip).clip([weights])
    assert torch.equal(weights.grad, before) and norm == before.norm()
    assert clipping_of(clip=1.0).clip([weights]) == before.norm()
    assert float(weights.grad.norm()) == pytest.approx(1.0, rel=1e-4)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingJob]:
    threads = torch.get_num_threads()
    job = tiny_job(tmp_path_factory.mktemp("clipping"), num_train=12, num_dev=2)
    yield ctc_alone(job, max_steps=23, batch_seconds=6, micro_batch_seconds=6, evaluate_every_steps=23)
    torch.set_num_threads(threads)


def with_limits(job: TrainingJob, run_dir: Path, clip: float, ratio: float) -> TrainingJob:
    trainer = replace(job.config.trainer, gradient_clip=clip, gradient_clip_ratio=ratio)
    trainer = replace(trainer, checkpoint_every_steps=21)
    return replace(job, config=replace(job.config, trainer=trainer), run_dir=run_dir)


def test_a_resumed_run_clips_as_one_that_was_never_stopped_and_says_how_often(
    job: TrainingJob, tmp_path: Path
) -> None:
    """A twentieth of the usual norm is exceeded from the first step that is judged on: the 21st."""
    whole, parts = (with_limits(job, tmp_path / name, clip=0.0, ratio=0.05) for name in ("whole", "parts"))
    result = train(whole)
    assert result.clipped_share == pytest.approx(3 / 23)
    (line,) = [line for line in closing_lines(tmp_path, result, 0) if "clipping" in line]
    assert line == "clipping acted in 13.0% of the steps"
    step_path(parts.run_dir, 21).parent.mkdir(parents=True)
    shutil.copy(step_path(whole.run_dir, 21), step_path(parts.run_dir, 21))
    assert train(parts).clipped_share == result.clipped_share
    one, other = (load_checkpoint(step_path(j.run_dir, 23)) for j in (whole, parts))
    assert one.clipping == other.clipping
    assert all(torch.equal(tensor, other.model[name]) for name, tensor in one.model.items())


def test_a_run_whose_every_step_is_clipped_says_so(job: TrainingJob, tmp_path: Path) -> None:
    few = replace(job, config=replace(job.config, trainer=replace(job.config.trainer, max_steps=2)))
    result = train(with_limits(few, tmp_path, clip=1e-3, ratio=0.0))
    (line,) = [line for line in closing_lines(tmp_path, result, 0) if "clipping" in line]
    assert "100.0% of the steps, as a rule" in line and "trainer.gradient_clip_ratio" in line
    assert line in (tmp_path / "log.txt").read_text(encoding="utf-8")
