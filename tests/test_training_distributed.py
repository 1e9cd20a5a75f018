"""Several processes train one model: the loss curve of one process, whatever their number."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import CACHE_CONFIG, listening, tiny_config, tiny_job

from student.data.sampler import Step
from student.signals import TrainingInterrupted
from student.training.checkpoint import load_checkpoint, saved_steps
from student.training.distributed import joined_ranks
from student.training.log import SilentLog
from student.training.trainer import TrainingJob, train

STEPS = 6
DRIVER = "import sys; from test_training_distributed import train_as_a_rank; train_as_a_rank(*sys.argv[1:])"


def job_of(folder: Path, run: str, **trainer: float) -> TrainingJob:
    """The job below `folder` without dropout, whose masks differ from rank to rank; its decoders listen."""
    config = listening(tiny_config(max_steps=STEPS, batch_seconds=16, micro_batch_seconds=6, **trainer))
    config = replace(
        config,
        conformer=replace(config.conformer, dropout=0.0),
        decoder=replace(config.decoder, dropout=0.0),
    )
    (cache,) = (folder / "caches").glob("?" * 32)
    return TrainingJob(
        config=config,
        train_manifest=folder / "train.jsonl",
        dev_manifest=folder / "dev.jsonl",
        units_model=folder / "units.model",
        data_root=folder / "data",
        cache_path=cache,
        cache_config=CACHE_CONFIG,
        run_dir=folder / run,
    )


def train_as_a_rank(folder: str, run: str, stop_at: str) -> None:
    """What torchrun starts; the last rank is asked to stop at a step, where one is given."""
    original = SilentLog.figures

    def figures(log: SilentLog, step: int, kind: str, values: dict[str, float]) -> None:
        original(log, step, kind, values)
        if step == int(stop_at):
            os.kill(os.getpid(), signal.SIGTERM)

    SilentLog.figures = figures  # type: ignore[method-assign, assignment]
    with joined_ranks("cpu") as ranks:
        try:
            train(job_of(Path(folder), run), ranks)
        except TrainingInterrupted as stopped:
            raise SystemExit(stopped.exit_code) from None


def run_ranks(folder: Path, run: str, world: int, stop_at: int = -1) -> int:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    done = subprocess.run(
        [*launcher, "--no-python", sys.executable, "-c", DRIVER, str(folder), run, str(stop_at)],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert "Traceback (most recent call last):\n  File" not in done.stderr or stop_at >= 0, done.stderr
    return done.returncode


def curve(run_dir: Path, name: str = "loss", kind: str = "train") -> list[float]:
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry[name] for entry in map(json.loads, lines) if entry["kind"] == kind and name in entry]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, cache and the run of one process."""
    folder = tmp_path_factory.mktemp("ranks")
    tiny_job(folder, num_train=40, num_dev=6)
    threads = torch.get_num_threads()
    train(job_of(folder, "alone"))
    torch.set_num_threads(threads)
    return folder


@pytest.mark.slow
def test_two_ranks_give_the_loss_curve_of_one(folder: Path) -> None:
    assert run_ranks(folder, "both", world=2) == 0
    alone, both = folder / "alone", folder / "both"
    assert len(curve(alone)) == STEPS
    for name in ("loss", "ctc", "kd_final", "ce_tap1", "gradient_norm"):
        assert curve(both, name) == pytest.approx(curve(alone, name), rel=1e-5) != []
    for name in ("share_all", "norm_soft_tap1", "cosine_ctc_hard_final"):
        assert curve(both, name, "gradient") == pytest.approx(curve(alone, name, "gradient"), rel=1e-4)
    one, other = (load_checkpoint(run / "final.pt").model for run in (alone, both))
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, atol=1e-5, rtol=1e-4)
    assert (both / "result.json").is_file() and saved_steps(both) == saved_steps(alone)


@pytest.mark.slow
def test_a_stop_that_one_rank_hears_stops_all_and_another_count_goes_on(folder: Path) -> None:
    assert run_ranks(folder, "stopped", world=2, stop_at=3) != 0
    assert saved_steps(folder / "stopped")[-1] == 3
    train(job_of(folder, "stopped"))  # alone
    assert curve(folder / "stopped") == pytest.approx(curve(folder / "alone"), rel=1e-5)


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_every_utterance_of_a_step_is_some_rank_s_and_no_rank_s_share_is_far_larger(world: int) -> None:
    step = Step(0, 0, tuple(torch.arange(start, start + 6).numpy() for start in range(0, 30, 6)))
    shares = [step.share(rank, world) for rank in range(world)]
    assert sorted(int(i) for share in shares for batch in share for i in batch) == list(range(30))
    sizes = [sum(len(batch) for batch in share) for share in shares]
    assert max(sizes) - min(sizes) <= 5
    assert all(len(batch) for share in shares for batch in share)
