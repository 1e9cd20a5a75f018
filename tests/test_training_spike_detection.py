"""An exploded loss: told from a batch that is merely hard, skipped, counted, and the end of a run in time."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from test_training_trainer import figures_of
from tiny_run import ctc_alone, multiplied, tiny_job

from student.errors import StudentError
from student.training.run import Run
from student.training.spike_detection import LossWatch
from student.training.trainer import TrainingJob, train


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    job = tiny_job(tmp_path_factory.mktemp("watched"), num_train=20, num_dev=2)
    return ctc_alone(job, max_steps=26, evaluate_every_steps=100, max_bad_steps=2, warmup_steps=50)


def a_thousandfold(monkeypatch: pytest.MonkeyPatch, at_steps: set[int]) -> None:
    """The loss explodes in these steps, counted from 1."""
    original = Run._objective

    def loss_of(run: Run, *arguments: Any) -> Any:
        return multiplied(original(run, *arguments), 1000.0 if run.step + 1 in at_steps else 1.0)

    monkeypatch.setattr(Run, "_objective", loss_of)


def test_an_exploded_step_is_skipped_and_leaves_no_trace_in_the_weights(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_thousandfold(monkeypatch, {23})
    result = train(replace(job, run_dir=tmp_path))
    assert result.skipped_steps == 1 and result.steps == 26
    losses = [entry["loss"] for entry in figures_of(tmp_path)]
    assert losses[22] > 100 * losses[21] > 50 * losses[23]
    assert "times the mean of earlier steps" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_explosions_in_a_row_end_the_run_with_advice(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_thousandfold(monkeypatch, {23, 24})
    with pytest.raises(StudentError, match=r"2 steps in a row .* lower trainer.learning_rate"):
        train(replace(job, run_dir=tmp_path))


def test_the_watch_judges_late_by_the_second_and_from_what_it_kept() -> None:
    totals: dict[str, float] = {}
    for _ in range(19):
        watch = LossWatch(10.0, totals)  # a new one each step, as a resumed run has
        assert not watch.fault(300.0, 20.0, 1.0)
        watch.learn(20.0)
    assert not LossWatch(10.0, totals).fault(9e9, 9e9, 1.0)  # too early to tell
    LossWatch(10.0, totals).learn(20.0)
    assert totals["mean_loss_per_second"] == pytest.approx(20)
    watch = LossWatch(10.0, totals)
    assert not watch.fault(3000.0, 199.0, 1.0)
    assert "loss 201 per second of audio, 10 times the mean" in watch.fault(3000.0, 201.0, 1.0)
    assert watch.fault(nan, nan, 1.0) and watch.fault(1.0, 1.0, inf)
