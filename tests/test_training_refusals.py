"""What a run refuses, skips or ends at: labels that do not fit, losses without a number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tiny_run import CACHE_CONFIG, ctc_alone, figures_of, multiplied

from student.data.manifest import read_manifest, write_manifest
from student.errors import StudentError
from student.training.checkpoint import load_checkpoint, step_path
from student.training.optimisation import step as training_step
from student.training.trainer import TrainingJob, train
from teacher_cache.errors import CacheError


@pytest.fixture(autouse=True)
def _same_threads_afterwards() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_cache_that_was_built_otherwise_is_refused(job: TrainingJob, tmp_path: Path) -> None:
    other = replace(CACHE_CONFIG, top_k=64, masking="whole_word")
    with pytest.raises(StudentError, match="masking") as caught:
        train(replace(job, cache_config=other, run_dir=tmp_path))
    assert "top_k" in str(caught.value) and "\n" not in str(caught.value)


def test_a_transcript_that_the_cache_lacks_is_named(job: TrainingJob, tmp_path: Path) -> None:
    utterances = read_manifest(job.train_manifest)
    strange = replace(utterances[3], text="red red red red flower")
    write_manifest(tmp_path / "train.jsonl", [*utterances[:3], strange, *utterances[4:]])
    with pytest.raises(CacheError, match=strange.id):
        train(replace(job, train_manifest=tmp_path / "train.jsonl", run_dir=tmp_path / "run"))


def test_a_damaged_best_step_is_told_before_a_step_is_trained(job: TrainingJob, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best.json").write_text('{"step": "two"}')
    with pytest.raises(StudentError, match=r"best\.json: "):
        train(replace(job, run_dir=tmp_path))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_decoders_without_a_cache_are_refused(job: TrainingJob, tmp_path: Path) -> None:
    with pytest.raises(StudentError, match="ctc_weight"):
        train(replace(job, cache_path=None, run_dir=tmp_path))


def test_a_student_larger_than_the_machine_is_refused_before_it_is_made(
    job: TrainingJob, tmp_path: Path
) -> None:
    conformer = replace(job.config.conformer, num_layers=256, model_dim=16_384, feed_forward_dim=65_536)
    config = replace(job.config, conformer=conformer)
    with pytest.raises(StudentError, match="a student of .* weights needs .* lower model_dim"):
        train(replace(job, config=config, run_dir=tmp_path))


def poisoned(at_steps: set[int]) -> Callable[..., Any]:
    """compute_objective with a loss of NaN at these calls, counted from 0."""
    original, calls = training_step.compute_objective, iter(range(10_000))

    def compute(*arguments: Any) -> Any:
        return multiplied(original(*arguments), float("nan") if next(calls) in at_steps else 1.0)

    return compute


def test_a_step_without_a_finite_loss_is_skipped_and_counted(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_step, "compute_objective", poisoned({1}))
    single = ctc_alone(job, max_steps=3, batch_seconds=8, checkpoint_every_steps=1)
    result = train(replace(single, run_dir=tmp_path))
    assert result.skipped_steps == 1
    first, second, third = (load_checkpoint(step_path(tmp_path, step)) for step in (1, 2, 3))
    assert all(torch.equal(tensor, second.model[name]) for name, tensor in first.model.items())
    assert not torch.equal(second.model["ctc_head.weight"], third.model["ctc_head.weight"])
    assert figures_of(tmp_path)[1]["loss"] is None


def test_steps_that_keep_failing_end_the_run_with_advice(job: TrainingJob, tmp_path: Path) -> None:
    exploding = ctc_alone(job, max_steps=50, learning_rate=10.0, warmup_steps=0, max_bad_steps=3)
    with pytest.raises(StudentError, match=r"3 steps in a row.*lower trainer\.learning_rate"):
        train(replace(exploding, run_dir=tmp_path))
    assert len(figures_of(tmp_path)) < 50


def test_a_waveform_of_nan_ends_the_run_and_is_named(job: TrainingJob, tmp_path: Path) -> None:
    utterances = read_manifest(job.train_manifest)
    samples = np.full(int(utterances[0].seconds * 16_000), np.nan)
    soundfile.write(tmp_path / "nan.wav", samples, 16_000, subtype="FLOAT")
    broken = replace(utterances[0], audio=str(tmp_path / "nan.wav"))
    write_manifest(tmp_path / "train.jsonl", [broken, *utterances[1:]])
    with pytest.raises(StudentError, match=r"nan\.wav: holds NaN"):
        train(replace(ctc_alone(job), train_manifest=tmp_path / "train.jsonl", run_dir=tmp_path / "run"))
