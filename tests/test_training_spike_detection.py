"""An exploded loss: told from a batch that is merely hard, skipped, counted, and the end of a run in time."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from pathlib import Path

import pytest
from tiny_run import ctc_alone, figures_of, multiplied, tiny_job

from student.data.dataset import SpeechBatch
from student.errors import StudentError
from student.loss.objective import Objective
from student.training.optimisation.spike_detection import SpikeDetector
from student.training.optimisation.step import Optimisation
from student.training.trainer import TrainingJob, train


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    job = tiny_job(tmp_path_factory.mktemp("watched"), num_train=20, num_dev=2)
    return ctc_alone(job, max_steps=26, evaluate_every_steps=100, max_bad_steps=2, warmup_steps=50)


def a_thousandfold(monkeypatch: pytest.MonkeyPatch, at_steps: set[int]) -> None:
    """The loss explodes in these steps, counted from 1."""
    original = Optimisation.objective

    def objective(step: Optimisation, speech: SpeechBatch, num_utterances: int, number: int) -> Objective:
        factor = 1000.0 if number + 1 in at_steps else 1.0
        return multiplied(original(step, speech, num_utterances, number), factor)

    monkeypatch.setattr(Optimisation, "objective", objective)


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


def resumed(detector: SpikeDetector) -> SpikeDetector:
    """Another one that goes on from its state."""
    other = SpikeDetector(10.0)
    other.restore(detector.state())
    return other


def test_the_detector_judges_late_by_the_second_and_from_what_it_kept() -> None:
    detector = SpikeDetector(10.0)
    for _ in range(19):
        detector = resumed(detector)
        assert not detector.fault(300.0, 20.0, 1.0)
        detector.learn(20.0)
    assert not resumed(detector).fault(9e9, 9e9, 1.0)  # too early to tell
    detector.learn(20.0)
    assert detector.mean_loss_per_second == pytest.approx(20)
    detector = resumed(detector)
    assert not detector.fault(3000.0, 199.0, 1.0)
    assert "loss 201 per second of audio, 10 times the mean" in detector.fault(3000.0, 201.0, 1.0)
    assert detector.fault(nan, nan, 1.0) and detector.fault(1.0, 1.0, inf)
