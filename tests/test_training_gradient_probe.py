"""What is logged of the parts' gradients comes from one fixed batch, and costs a run not a bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import ctc_alone, listening, tiny_config, tiny_job

from student.config import ObjectiveConfig
from student.data.training_data import load_training_data
from student.training.checkpoint import load_checkpoint, step_path
from student.training.log import RunLog
from student.training.optimisation.gradient_probe import PROBE_UTTERANCES
from student.training.report import closing_lines
from student.training.run import Run
from student.training.trainer import TrainingJob, read_result, train

TIMED = {"audio_seconds_per_second", "data_wait_seconds"}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingJob]:
    threads = torch.get_num_threads()
    job = tiny_job(tmp_path_factory.mktemp("probe"), num_train=24, num_dev=4)
    yield replace(job, config=with_every(1, listens=True))
    torch.set_num_threads(threads)


def with_every(steps: int, listens: bool, share: float = 0.0) -> Any:
    config = tiny_config(max_steps=3, evaluate_every_steps=2)
    config = listening(config) if listens else config
    return replace(config, objective=replace(config.objective, share_every_steps=steps, branch_share=share))


def entries(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found = [entry for entry in map(json.loads, lines) if entry["kind"] == kind]
    return [{name: value for name, value in entry.items() if name not in TIMED} for entry in found]


@pytest.fixture(scope="module")
def probed(job: TrainingJob) -> TrainingJob:
    train(job)
    return job


def test_a_run_trains_to_the_same_bits_with_and_without_it(probed: TrainingJob, tmp_path: Path) -> None:
    train(replace(probed, config=with_every(0, listens=True), run_dir=tmp_path))
    assert entries(tmp_path, "train") == entries(probed.run_dir, "train")
    assert entries(tmp_path, "dev") == entries(probed.run_dir, "dev")
    assert entries(tmp_path, "gradient") == []
    one, other = (load_checkpoint(step_path(run_dir, 3)) for run_dir in (probed.run_dir, tmp_path))
    assert all(torch.equal(tensor, other.model[name]) for name, tensor in one.model.items())
    for number, state in one.optimiser["state"].items():
        assert all(torch.equal(t, other.optimiser["state"][number][name]) for name, t in state.items())
    result = read_result(tmp_path)
    assert result is not None and result.gradient == {} and result.probe_seconds == 0


def test_result_and_log_say_each_term_s_share_and_cosine_and_what_that_cost(probed: TrainingJob) -> None:
    assert [entry["step"] for entry in entries(probed.run_dir, "gradient")] == [1, 2, 3]
    result = read_result(probed.run_dir)
    assert result is not None
    last = entries(probed.run_dir, "gradient")[-1]
    for layer in ("tap1", "final", "all"):
        shares = [result.gradient[f"share_{part}_{layer}"] for part in ("ctc", "hard", "soft")]
        assert sum(shares) == pytest.approx(1) and min(shares) > 0
        for part in ("hard", "soft"):
            name = f"cosine_ctc_{part}_{layer}"
            assert result.gradient[name] == last[name] and -1 <= last[name] <= 1
    assert result.gradient["step"] == 3
    assert 0 < result.probe_seconds < 60
    log = (probed.run_dir / "log.txt").read_text(encoding="utf-8")
    lines = closing_lines(probed.run_dir, result, 0)
    assert all(line in log for line in lines)
    assert any(line.startswith("gradient on the probe batch, tap1: CTC ") and "KD" in line for line in lines)
    assert "as much again on the probe batch" in lines[-1]


def test_the_summary_says_what_the_decoder_owes_to_listening(probed: TrainingJob) -> None:
    result, dev = read_result(probed.run_dir), entries(probed.run_dir, "dev")[-1]
    assert result is not None
    names = ("accuracy_final", "accuracy_deaf_final", "kd_per_token_final", "kd_per_token_deaf_final")
    assert result.listening == {"step": 3, **{name: dev[name] for name in names}}
    assert any("with another utterance's audio" in line for line in closing_lines(Path(), result, 0))


def test_a_deaf_decoder_is_told_of_at_the_first_dev_measurement(probed: TrainingJob) -> None:
    lines = (probed.run_dir / "log.txt").read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(lines) if " step 2 dev: " in line)
    assert "warning: the final decoder" in lines[first + 1] and "nats a token" in lines[first + 1]


def run_of(job: TrainingJob, run_dir: Path) -> Run:
    with RunLog(run_dir, 0) as log:
        return Run(job, load_training_data(job, None, lambda line: None), log, None)


def test_it_draws_nothing_and_leaves_the_model_as_it_was(job: TrainingJob, tmp_path: Path) -> None:
    run = run_of(job, tmp_path)
    probe, model = run.optimisation.probe, run.model.train()
    drawn = torch.get_rng_state()
    first, again = probe.measure(1, 1.0), probe.measure(1, 1.0)
    assert first.figures == again.figures and first.seconds > 0
    assert torch.equal(torch.get_rng_state(), drawn) and model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    doubled = probe.measure(1, 2.0).figures
    assert doubled["norm_soft_all"] == pytest.approx(2 * first.figures["norm_soft_all"])
    assert doubled["cosine_ctc_soft_all"] == pytest.approx(first.figures["cosine_ctc_soft_all"])


def test_its_utterances_are_whole_unchanged_and_fit_on_the_device(job: TrainingJob, tmp_path: Path) -> None:
    run = run_of(job, tmp_path)
    run.optimisation.probe.measure(0, 1.0)
    batch = run.optimisation.probe._batch
    assert batch is not None and 1 < len(batch.indices) <= PROBE_UTTERANCES
    speech, limit = run.data.train.speech, job.config.trainer.micro_batch_seconds
    assert batch.waveforms.numel() / 16_000 <= limit
    for row, index in enumerate(batch.indices):
        samples = torch.from_numpy(speech.samples(index).copy()).float() / 32768
        assert torch.equal(batch.waveforms[row, : int(batch.sample_lengths[row])], samples)


def test_a_share_is_held_by_whole_batches_with_the_probe_beside_it(job: TrainingJob, tmp_path: Path) -> None:
    train(replace(job, config=with_every(1, listens=False, share=0.4), run_dir=tmp_path))
    scales = [entry["branch_scale"] for entry in entries(tmp_path, "train")]
    assert scales[0] == 1 and scales[1] != 1 and scales[2] != scales[1]
    state = load_checkpoint(step_path(tmp_path, 3)).branch_balance
    assert state["scale"] not in scales


def test_without_a_branch_nothing_is_probed(job: TrainingJob, tmp_path: Path) -> None:
    alone = ctc_alone(job, max_steps=1)
    every = ObjectiveConfig(ctc_weight=1.0, distillation_weight=0.0, share_every_steps=1)
    result = train(replace(alone, config=replace(alone.config, objective=every), run_dir=tmp_path))
    assert entries(tmp_path, "gradient") == [] and result.gradient == {} and result.listening == {}
    assert "probe batch" not in (tmp_path / "log.txt").read_text(encoding="utf-8")
