"""Whole runs with tiny models: they learn, resume exactly, stop cleanly and refuse what does not fit."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from synthetic_cache import make, plan_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import CACHE_CONFIG, WordTeacher, ctc_alone, listening, multiplied, tiny_config, tiny_job

from student.config import ObjectiveConfig
from student.data.manifest import read_manifest, write_manifest
from student.data.sampler import BatchSampler
from student.errors import StudentError
from student.signals import TrainingInterrupted
from student.training import measurements
from student.training.checkpoint import load_checkpoint, saved_steps, step_path
from student.training.log import RunLog
from student.training.optimisation import step as training_step
from student.training.run_folder import run_lock
from student.training.trainer import TrainingJob, train
from teacher_cache.errors import CacheError
from teacher_cache.passages import passages_of

TIMED = {"audio_seconds_per_second", "data_wait_seconds"}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    return tiny_job(tmp_path_factory.mktemp("tiny"), num_train=40, num_dev=6)


@pytest.fixture(autouse=True)
def _same_threads_afterwards() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def figures_of(run_dir: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [entry for entry in map(json.loads, lines) if entry["kind"] == kind]
    return [{name: value for name, value in entry.items() if name not in TIMED} for entry in entries]


def send_at_step(monkeypatch: pytest.MonkeyPatch, number: signal.Signals, step: int) -> None:
    """Have the process signal itself while it logs that training step."""
    original = RunLog.figures

    def figures(log: RunLog, at_step: int, kind: str, values: Mapping[str, float]) -> None:
        original(log, at_step, kind, values)
        if kind == "train" and at_step == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(RunLog, "figures", figures)


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
    terms = {f"{term}_{place}" for term in ("ce", "kd") for place in ("tap1", "final")}
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


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_saves_at_the_next_step_and_says_how_to_go_on(
    job: TrainingJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    code: int,
) -> None:
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    send_at_step(monkeypatch, number, 1)
    short = replace(ctc_alone(job, checkpoint_every_steps=100, evaluate_every_steps=100), run_dir=tmp_path)
    with pytest.raises(TrainingInterrupted, match="step 1 of 6; the same command") as caught:
        train(short)
    assert caught.value.exit_code == code
    assert saved_steps(tmp_path) == [1] and not (tmp_path / "result.json").exists()
    assert {n: signal.getsignal(n) for n in handlers} == handlers
    assert "TrainingInterrupted" in (tmp_path / "log.txt").read_text(encoding="utf-8")


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


def test_checkpoints_are_pruned_to_the_last_few_and_the_best(job: TrainingJob, tmp_path: Path) -> None:
    many = ctc_alone(job, max_steps=6, checkpoint_every_steps=1, evaluate_every_steps=100, keep_checkpoints=2)
    train(replace(many, run_dir=tmp_path))
    assert saved_steps(tmp_path) == [5, 6]


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


def test_decoders_without_a_cache_are_refused(job: TrainingJob, tmp_path: Path) -> None:
    with pytest.raises(StudentError, match="ctc_weight"):
        train(replace(job, cache_path=None, run_dir=tmp_path))


def test_hard_labels_take_their_pieces_from_the_cache_and_no_distribution(
    job: TrainingJob, tmp_path: Path
) -> None:
    config = tiny_config(ObjectiveConfig(distillation_weight=0.0, top_k=6), max_steps=1)
    train(replace(job, config=config, run_dir=tmp_path))
    (first,) = figures_of(tmp_path)
    assert "ce_final" in first and not any(name.startswith("kd_") for name in first)


def test_two_processes_on_one_run_are_refused(job: TrainingJob, tmp_path: Path) -> None:
    with run_lock(tmp_path), pytest.raises(StudentError, match=f"process {os.getpid()} is training it"):
        train(replace(job, run_dir=tmp_path))


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
    exploding = ctc_alone(job, max_steps=50, learning_rate=1e9, warmup_steps=0, max_bad_steps=3)
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
