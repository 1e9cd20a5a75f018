"""The benchmark that retrains a finished run's decoder with and without audio, rehearsed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import decoder_listening
import pytest
import torch
from tiny_run import CACHE_CONFIG, CTC_ALONE, tiny_config, tiny_job

from pipeline.errors import PipelineError
from pipeline.run_record import write_record
from student.data.training_data import load_training_data
from student.training.trainer import TrainingJob, train


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingJob]:
    threads = torch.get_num_threads()
    job = tiny_job(tmp_path_factory.mktemp("listening"), num_train=24, num_dev=4)
    yield finished(replace(job, config=tiny_config(max_steps=2)))
    torch.set_num_threads(threads)


def finished(job: TrainingJob) -> TrainingJob:
    """A run as `bert2ctc train` leaves it."""
    train(job)
    cache = "" if job.cache_path is None else job.cache_path.name
    tables = {"cache": asdict(CACHE_CONFIG)}
    write_record(job.run_dir, {"prepared": str(job.train_manifest.parent), "cache": cache, "config": tables})
    return job


def rehearsed(job: TrainingJob, *options: str) -> None:
    roots = ["--data", str(job.data_root), "--caches", str(job.train_manifest.parent / "caches")]
    decoder_listening.main([str(job.run_dir), "--quick", *roots, *options], standalone_mode=False)


def test_the_rehearsal_writes_every_figure(
    job: TrainingJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rehearsed(job, "--json", str(tmp_path / "figures.json"))
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["steps"] == 3 and figures["decoder"].keys() == {"audio", "zeros"}
    assert all(0 <= figures["decoder"][name]["accuracy_final"] <= 1 for name in ("audio", "zeros"))
    nats = [figures["decoder"][name]["kd_per_token_final"] for name in ("zeros", "audio")]
    assert figures["nats_gained"] == pytest.approx(nats[0] - nats[1]) != 0
    assert figures["probe"].keys() == {"tap1", "final", "nothing"}
    assert figures["probe_tokens"]["train"] > figures["probe_tokens"]["dev"] > 0
    shown = capsys.readouterr().out
    assert "zeros" in shown and "linear probe of" in shown


def test_a_run_of_ctc_alone_is_read_by_another_run_s_decoder_and_refused_without_one(
    job: TrainingJob, tmp_path: Path
) -> None:
    config = tiny_config(CTC_ALONE, max_steps=1)
    alone = finished(replace(job, config=config, cache_path=None, run_dir=tmp_path / "alone"))
    with pytest.raises(PipelineError, match="--decoder-of"):
        rehearsed(alone)
    rehearsed(alone, "--decoder-of", str(job.run_dir))
    with pytest.raises(PipelineError, match="no run is recorded there"):
        rehearsed(replace(job, run_dir=tmp_path))


def test_the_encoder_stands_still_and_zeros_are_all_that_a_deaf_decoder_hears(job: TrainingJob) -> None:
    data = load_training_data(job, None, lambda line: None)
    model = decoder_listening.student_of(job, data, torch.device("cpu")).train()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"decoders"}
    pieces = torch.zeros(1, 3, dtype=torch.int64)
    heard = [
        model(torch.randn(1, 80, 80, generator=torch.Generator().manual_seed(seed)), torch.tensor([80]))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(heard[0].hidden[2], heard[1].hidden[2])  # no dropout in training mode either
    model.eval()
    for is_deaf in (False, True):
        model.is_deaf = is_deaf
        states = [
            model.decode(model.encode(torch.full((1, 80, 80), value), torch.tensor([80])), pieces)[2].states
            for value in (0.0, 1.0)
        ]
        assert torch.equal(*states) == is_deaf


def test_a_linear_probe_finds_what_is_linear_and_nothing_in_nothing() -> None:
    random = torch.Generator().manual_seed(0)
    states, directions = torch.randn(600, 8, generator=random), torch.randn(8, 4, generator=random)
    labels = (states @ directions).argmax(-1)
    split = (states[:500], labels[:500]), (states[500:], labels[500:])
    assert decoder_listening.probe_accuracy(*split, 4, 500)["dev"] > 0.85
    nothing = [(torch.zeros(len(y), 1), y) for _, y in split]
    commonest = int(labels[:500].bincount().max()) / 500
    assert decoder_listening.probe_accuracy(*nothing, 4, 300)["train"] == pytest.approx(commonest)
