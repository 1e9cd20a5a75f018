"""A run that was stopped or killed goes on as if it had not been, with what it began with alone."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from synthetic_cache import make, plan_of
from tiny_run import (
    CACHE_CONFIG,
    WordTeacher,
    ctc_alone,
    figures_of,
    listening,
    send_at_step,
    tiny_config,
)

from student.data.manifest import read_manifest
from student.errors import StudentError
from student.signals import STOP_SIGNALS, TrainingInterrupted
from student.training import measurements
from student.training.checkpoint import load_checkpoint, saved_steps, step_path
from student.training.run_folder import run_lock
from student.training.trainer import TrainingJob, train
from teacher_cache.passages import passages_of

pytestmark = pytest.mark.usefixtures("same_threads_afterwards")


@pytest.mark.slow
@pytest.mark.parametrize("lost_steps", [0, 1])
@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    job: TrainingJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    lost_steps: int,
    listens: bool,
) -> None:
    """Dropout, SpecAugment, speed, accumulation and distillation on; a killed process loses steps."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    config = tiny_config(max_steps=7, precision=precision)
    config = listening(config) if listens else config
    whole, parts = (replace(job, config=config, run_dir=tmp_path / name) for name in ("whole", "parts"))
    train(whole)
    for stop_at, number in ((1, signal.SIGTERM), (5, signal.SIGUSR1)):
        with monkeypatch.context() as context:
            send_at_step(context, number, stop_at)
            with pytest.raises(TrainingInterrupted):
                train(parts)
        assert saved_steps(parts.run_dir)[-1] == stop_at
        if lost_steps and stop_at == 5:
            step_path(parts.run_dir, stop_at).unlink()
    train(parts)
    assert figures_of(parts.run_dir) == figures_of(whole.run_dir)
    assert figures_of(parts.run_dir, "dev") == figures_of(whole.run_dir, "dev")
    assert figures_of(parts.run_dir, "gradient") == figures_of(whole.run_dir, "gradient")
    one, other = (load_checkpoint(step_path(j.run_dir, 7)) for j in (whole, parts))
    assert all(torch.equal(tensor, other.model[name]) for name, tensor in one.model.items())
    assert all(torch.equal(tensor, other.average[name]) for name, tensor in one.average.items())
    assert bool(one.average) is listens and one.averaged_steps == other.averaged_steps
    for number, state in one.optimiser["state"].items():
        assert all(torch.equal(t, other.optimiser["state"][number][name]) for name, t in state.items())
    epochs = {entry["epoch"] for entry in figures_of(whole.run_dir)}
    assert len(epochs) > 1, "the run must cross an epoch's end to prove anything"


def test_a_run_killed_while_it_measured_dev_measures_it_when_it_goes_on(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step was saved before the measurement, so nothing is trained twice either."""
    config = tiny_config(max_steps=4, checkpoint_every_steps=2, evaluate_every_steps=2)
    whole, parts = (replace(job, config=config, run_dir=tmp_path / name) for name in ("whole", "parts"))
    train(whole)
    with monkeypatch.context() as context:
        context.setattr(measurements, "dev_figures", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(parts)
    assert saved_steps(parts.run_dir) == [2]
    train(parts)
    assert figures_of(parts.run_dir) == figures_of(whole.run_dir)
    assert figures_of(parts.run_dir, "dev") == figures_of(whole.run_dir, "dev")


@pytest.mark.parametrize(
    "number, code",
    [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGHUP, 75), (signal.SIGINT, 130)],
)
def test_a_signal_saves_at_the_next_step_and_says_how_to_go_on(
    job: TrainingJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    code: int,
) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    handlers = {n: signal.getsignal(n) for n in STOP_SIGNALS}
    send_at_step(monkeypatch, number, 1)
    short = replace(ctc_alone(job, checkpoint_every_steps=100, evaluate_every_steps=100), run_dir=tmp_path)
    with pytest.raises(TrainingInterrupted, match="step 1 of 6; the same command") as caught:
        train(short)
    assert caught.value.exit_code == code
    assert saved_steps(tmp_path) == [1] and not (tmp_path / "result.json").exists()
    assert {n: signal.getsignal(n) for n in handlers} == handlers
    assert "TrainingInterrupted" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_another_config_is_refused_and_the_keys_are_named(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(ctc_alone(job), run_dir=tmp_path)
    send_at_step(monkeypatch, signal.SIGTERM, 1)
    with pytest.raises(TrainingInterrupted):
        train(short)
    other = replace(short.config, trainer=replace(short.config.trainer, learning_rate=1e-4))
    with pytest.raises(StudentError, match=r"trainer\.learning_rate 0\.003, now 0\.0001"):
        train(replace(short, config=other))


def test_a_run_goes_on_with_the_cache_that_it_began_with_alone(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = replace(job, run_dir=tmp_path / "run")
    with monkeypatch.context() as context:
        send_at_step(context, signal.SIGTERM, 1)
        with pytest.raises(TrainingInterrupted):
            train(begun)
    assert job.dev_manifest is not None
    passages = {
        passage
        for manifest in (job.train_manifest, job.dev_manifest)
        for passage in passages_of(read_manifest(manifest), CACHE_CONFIG)
    }
    other = make(tmp_path / "caches", plan_of(list(passages), WordTeacher(seed=5), CACHE_CONFIG))
    with pytest.raises(StudentError, match=r"began with cache .*other model\.safetensors.* --cache"):
        train(replace(begun, cache_path=other))


def test_two_processes_on_one_run_are_refused(job: TrainingJob, tmp_path: Path) -> None:
    with run_lock(tmp_path), pytest.raises(StudentError, match=f"process {os.getpid()} is training it"):
        train(replace(job, run_dir=tmp_path))
