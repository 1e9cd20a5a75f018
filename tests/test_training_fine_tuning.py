"""A run that begins with another's weights, one that stops early, and one that does not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import ctc_alone, tiny_config, tiny_job

from student.config import StudentConfig
from student.data.dataset import SpeechBatch, load_batches
from student.data.sampler import BatchSampler
from student.data.training_data import load_training_data
from student.data.units import train_units
from student.errors import StudentError
from student.loss.objective import Objective
from student.training import measurements
from student.training.checkpoint import load_checkpoint, saved_steps, step_path
from student.training.estimate import estimate_training
from student.training.log import RunLog
from student.training.memory import largest_batches, memory_advice, probe_memory
from student.training.optimisation import step as training_step
from student.training.run import Run
from student.training.run_folder import dev_wers
from student.training.trainer import TrainingJob, train
from student.training.validation import has_stopped_improving, is_among_best


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    return tiny_job(tmp_path_factory.mktemp("tiny"), num_train=30, num_dev=5)


@pytest.fixture(scope="module")
def first(job: TrainingJob) -> TrainingJob:
    """A finished run with decoders, whose weights others begin from."""
    begun = replace(job, config=tiny_config(max_steps=3, threads=0))
    train(begun)
    return begun


def with_conformer(config: StudentConfig, **changes: Any) -> StudentConfig:
    return replace(config, conformer=replace(config.conformer, **changes))


def frozen(job: TrainingJob, run_dir: Path, **trainer: Any) -> TrainingJob:
    """One step at a rate of zero: what is saved is what the run began with."""
    still = {"max_steps": 1, "learning_rate": 0.0, "weight_decay": 0.0, "threads": 0}
    return replace(job, config=tiny_config(**still | trainer), run_dir=run_dir)


def test_weights_statistics_and_decoders_are_taken_over(first: TrainingJob, tmp_path: Path) -> None:
    tuned = frozen(first, tmp_path, initial_checkpoint=str(first.run_dir))
    result = train(tuned)
    began = load_checkpoint(step_path(first.run_dir, 3)).model
    after = load_checkpoint(step_path(tmp_path, 1)).model
    assert began.keys() == after.keys() and any(name.startswith("decoders") for name in began)
    assert all(torch.equal(tensor, after[name]) for name, tensor in began.items())
    assert result.initial_checkpoint == str(first.run_dir) and result.steps == 1
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "step-00000003.pt, step 3, its decoders too" in log


def test_a_final_model_s_decoders_begin_anew_and_it_is_said(first: TrainingJob, tmp_path: Path) -> None:
    final = first.run_dir / "final.pt"
    train(frozen(first, tmp_path, initial_checkpoint=str(final)))
    began, after = load_checkpoint(final).model, load_checkpoint(step_path(tmp_path, 1)).model
    assert all(torch.equal(tensor, after[name]) for name, tensor in began.items())
    assert "the decoders begin anew" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_a_run_without_decoders_and_with_other_taps_begins_from_one_with_them(
    first: TrainingJob, tmp_path: Path
) -> None:
    tuned = ctc_alone(first, max_steps=1, initial_checkpoint=str(first.run_dir), learning_rate=0.0)
    plain = replace(tuned.config.objective, intermediate_ctc_weight=0.0)
    config = with_conformer(replace(tuned.config, objective=plain), taps=())
    train(replace(tuned, config=config, run_dir=tmp_path))
    began, after = (
        load_checkpoint(first.run_dir / "final.pt").model,
        load_checkpoint(tmp_path / "final.pt").model,
    )
    assert torch.equal(began["features.mean"], after["features.mean"])
    assert torch.equal(began["encoder.subsampling.first.weight"], after["encoder.subsampling.first.weight"])


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        ({"num_layers": 3}, "conformer.num_layers 2, here 3"),
        ({"feed_forward_dim": 64}, "conformer.feed_forward_dim 128, here 64"),
        ({"self_conditioning": True}, "conformer.self_conditioning False, here True"),
    ],
)
def test_another_encoder_is_refused_and_named(
    first: TrainingJob, tmp_path: Path, changes: dict[str, Any], reported: str
) -> None:
    tuned = frozen(first, tmp_path, initial_checkpoint=str(first.run_dir))
    with pytest.raises(StudentError, match=reported):
        train(replace(tuned, config=with_conformer(tuned.config, **changes)))
    assert saved_steps(tmp_path) == []


def test_other_units_are_refused(first: TrainingJob, tmp_path: Path) -> None:
    train_units(["a red ship", "the blue flower"], tmp_path / "units.model", 18, "char")
    tuned = frozen(first, tmp_path / "run", initial_checkpoint=str(first.run_dir))
    with pytest.raises(StudentError, match="other CTC units"):
        train(replace(tuned, units_model=tmp_path / "units.model"))


def test_an_absent_checkpoint_is_named(job: TrainingJob, tmp_path: Path) -> None:
    with pytest.raises(StudentError, match="no such run or checkpoint"):
        train(frozen(job, tmp_path / "run", initial_checkpoint=str(tmp_path / "none")))


def test_a_fine_tuned_run_that_stopped_goes_on_without_what_it_began_from(
    first: TrainingJob, tmp_path: Path
) -> None:
    moved = tmp_path / "initial.pt"
    moved.write_bytes((first.run_dir / "final.pt").read_bytes())
    settings = {"max_steps": 4, "initial_checkpoint": str(moved), "threads": 0}
    whole, parts = (
        replace(first, config=tiny_config(**settings), run_dir=tmp_path / name) for name in ("whole", "parts")
    )
    train(whole)
    train(parts)
    for path in (parts.run_dir / "final.pt", parts.run_dir / "result.json", step_path(parts.run_dir, 4)):
        path.unlink()
    moved.unlink()
    train(parts)
    one, other = (load_checkpoint(run.run_dir / "final.pt").model for run in (whole, parts))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize(
    ("wers", "patience", "stops"),
    [
        ([0.5, 0.4, 0.4], 1, True),
        ([0.5, 0.4, 0.41, 0.39], 2, False),
        ([0.5, 0.4, 0.41, 0.42], 2, True),
        ([0.5, 0.6], 2, False),
        ([0.5, 0.6, 0.7], 0, False),
        ([], 1, False),
    ],
)
def test_patience_counts_evaluations_without_a_better_one(
    wers: list[float], patience: int, stops: bool
) -> None:
    assert has_stopped_improving(wers, patience) is stops


def test_of_equal_rates_the_earlier_is_the_better() -> None:
    wers = {10: 0.3, 20: 0.2, 30: 0.2, 40: 0.1}
    assert [step for step in wers if is_among_best(step, wers, 2)] == [20, 40]


@pytest.fixture
def worse_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A dev split on which the first two evaluations improve and the others do not."""
    measure, rates = measurements.dev_figures, iter([0.9, 0.5, 0.6, 0.5, 0.4])

    def figures(*arguments: Any) -> dict[str, float]:
        return measure(*arguments) | {"wer": next(rates)}

    monkeypatch.setattr(measurements, "dev_figures", figures)
    yield 4


def test_a_run_stops_where_dev_no_longer_improves(job: TrainingJob, tmp_path: Path, worse_after: int) -> None:
    many = ctc_alone(
        job, max_steps=30, evaluate_every_steps=1, early_stop_evaluations=2, keep_best_checkpoints=3
    )
    result = train(replace(many, run_dir=tmp_path))
    assert (result.steps, result.stopped_early, result.best_step) == (worse_after, True, 2)
    assert list(dev_wers(tmp_path).values()) == [0.9, 0.5, 0.6, 0.5]
    assert "stopped early" in (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert {2, 3, 4} <= set(saved_steps(tmp_path))
    assert train(replace(many, run_dir=tmp_path)).already_finished


def test_an_early_stop_needs_a_dev_split(job: TrainingJob, tmp_path: Path) -> None:
    short = ctc_alone(job, early_stop_evaluations=2)
    with pytest.raises(StudentError, match="needs a dev split"):
        train(replace(short, dev_manifest=None, run_dir=tmp_path))


def run_of(job: TrainingJob, run_dir: Path) -> Run:
    with RunLog(run_dir, 0) as log:
        return Run(job, load_training_data(job, None, lambda line: None), log, None)


def test_the_probe_hears_the_largest_batches_and_leaves_the_model_as_it_was(
    job: TrainingJob, tmp_path: Path
) -> None:
    run = run_of(replace(job, config=tiny_config(threads=0)), tmp_path)
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    sizes = []

    def loss_of(heard: SpeechBatch, count: int) -> Objective:
        sizes.append(heard.waveforms.numel())
        return run.optimisation.objective(heard, count, 0)

    probe_memory(run.model, run.sampler, 0, run.data.train.speech, run.config, loss_of)
    seconds = run.sampler.seconds_of(0)
    every = [batch for step in run.sampler.epoch(0) for batch in step.micro_batches]
    largest = max(len(batch) * seconds[batch].max() for batch in every)
    assert max(sizes) / 16_000 == pytest.approx(largest, rel=0.01) and len(sizes) <= 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.model.state_dict().items())
    assert all(parameter.grad is None for parameter in run.model.parameters())
    assert not run.optimisation.optimiser.state


def test_the_longest_utterance_is_probed_too() -> None:
    seconds = np.array([1.0] * 20 + [9.0])
    sampler = BatchSampler(seconds_of=lambda epoch: seconds, batch_seconds=40, micro_batch_seconds=10, seed=1)
    probed = [sorted(batch.tolist()) for batch in largest_batches(sampler, 0)]
    assert len(probed) == 2 and probed[1] == [20] and len(probed[0]) > 8


def too_large(*arguments: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has ...")


def test_out_of_memory_is_one_line_with_the_seconds_and_the_setting(job: TrainingJob, tmp_path: Path) -> None:
    run = run_of(replace(job, config=tiny_config(threads=0)), tmp_path)
    with pytest.raises(
        StudentError, match=r"a batch of \d+ s \(\d+ x .*micro_batch_seconds \(now 8\)"
    ) as reported:
        probe_memory(run.model, run.sampler, 0, run.data.train.speech, run.config, too_large)
    assert "\n" not in str(reported.value)
    speech = run.data.train.speech
    (single,) = load_batches(speech, [[(0, 0)]])
    with pytest.raises(StudentError, match=r"\(1 x .*lower data\.max_seconds"):
        with memory_advice(single, run.config, torch.device("cpu")):
            too_large()


def test_out_of_memory_in_a_step_is_told_as_well(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_step, "compute_objective", too_large)
    with pytest.raises(StudentError, match="out of memory on cpu"):
        train(replace(ctc_alone(job), run_dir=tmp_path))


def snapshot(folder: Path) -> Mapping[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_measures_and_keeps_nothing(first: TrainingJob, tmp_path: Path) -> None:
    fresh = replace(first, config=tiny_config(max_steps=500, threads=0), run_dir=tmp_path / "run")
    estimate = estimate_training(fresh, lambda line: None)
    assert not fresh.run_dir.exists()
    assert estimate.steps == 500 and 0 < estimate.inference_parameters < estimate.parameters
    assert estimate.hours == pytest.approx(500 * estimate.seconds_per_step / 3600)
    assert estimate.peak_memory_megabytes > 50
    real = step_path(first.run_dir, 3).stat().st_size / 1e6
    assert estimate.checkpoint_megabytes == pytest.approx(real, rel=0.15)
    assert estimate.disk_megabytes >= (3 + 1) * estimate.checkpoint_megabytes


def test_a_dry_run_of_a_run_under_way_counts_what_is_left(first: TrainingJob) -> None:
    before = snapshot(first.run_dir)
    estimate = estimate_training(first, lambda line: None)
    assert estimate.steps == 0 and estimate.hours == 0
    assert snapshot(first.run_dir) == before
