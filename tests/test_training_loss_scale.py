"""float16: a scaled loss trains as an unscaled one does, and an overflow lowers the scale."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import ctc_alone, figures_of, tiny_job
from torch.amp.grad_scaler import GradScaler

from student.errors import StudentError
from student.training import run as training_run
from student.training.checkpoint import load_checkpoint, step_path
from student.training.device import Precision, choose_precision
from student.training.optimisation import step as training_step
from student.training.trainer import TrainingJob, train

STEPS = 4
HALF = Precision(torch.float16, "float16 with a scaled loss, on a CPU for this test")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingJob]:
    threads = torch.get_num_threads()
    job = tiny_job(tmp_path_factory.mktemp("scaled"), num_train=20, num_dev=2)
    yield ctc_alone(job, max_steps=STEPS, evaluate_every_steps=100)
    torch.set_num_threads(threads)


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Runs compute in float16 on this CPU, which no user is offered."""
    monkeypatch.setattr(training_run, "choose_precision", lambda name, device, ranks: HALF)
    return monkeypatch


def scaled_by(context: pytest.MonkeyPatch, scale: float) -> None:
    context.setattr(training_step, "GradScaler", functools.partial(GradScaler, init_scale=scale))


def test_a_scaled_loss_takes_the_steps_of_the_exact_one(
    job: TrainingJob, tmp_path: Path, half: pytest.MonkeyPatch
) -> None:
    scaled_by(half, 2.0**10)
    train(replace(job, run_dir=tmp_path / "half"))
    half.undo()
    train(replace(job, run_dir=tmp_path / "whole"))
    for one, other in zip(figures_of(tmp_path / "half"), figures_of(tmp_path / "whole"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.02)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=0.05)


def test_an_overflow_lowers_the_scale_and_is_no_fault(
    job: TrainingJob, tmp_path: Path, half: pytest.MonkeyPatch
) -> None:
    scaled_by(half, 2.0**30)  # more halvings than max_bad_steps would forgive
    config = replace(job.config, trainer=replace(job.config.trainer, max_steps=30, checkpoint_every_steps=2))
    result = train(replace(job, config=config, run_dir=tmp_path))
    assert config.trainer.max_bad_steps < result.skipped_steps < 30
    scale = load_checkpoint(step_path(tmp_path, 30)).loss_scale["scale"]
    assert scale == 2.0 ** (30 - result.skipped_steps)
    assert "overflow at loss scale" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_the_scale_goes_on_where_it_was(job: TrainingJob, tmp_path: Path, half: pytest.MonkeyPatch) -> None:
    scaled_by(half, 2.0**30)
    config = replace(job.config, trainer=replace(job.config.trainer, max_steps=6, checkpoint_every_steps=3))
    run = replace(job, config=config, run_dir=tmp_path)
    train(run)
    for name in ("final.pt", "result.json", "checkpoints/step-00000006.pt"):
        (tmp_path / name).unlink()
    before = figures_of(tmp_path)
    train(run)
    assert figures_of(tmp_path) == before
    assert load_checkpoint(step_path(tmp_path, 6)).loss_scale["scale"] == 2.0**24


def test_float16_is_for_cuda_gpus() -> None:
    with pytest.raises(
        StudentError, match=r"float16: for CUDA GPUs, this is a cpu; set trainer.precision=auto"
    ):
        choose_precision("float16", torch.device("cpu"))
    assert choose_precision("float16", torch.device("cuda")).dtype == torch.float16
