"""torchrun in between changes neither the exit code that a queue reads nor the signals that it sends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.processes import launch_ranks
from student.training.distributed import num_ranks_here

LAUNCHER = """
import sys
from pipeline.processes import launch_ranks
sys.exit(launch_ranks(sys.argv[2:], 2, (sys.executable, sys.argv[1])))
"""
RANK = """
import os, pathlib, signal, sys, time
folder, code = pathlib.Path(sys.argv[1]), int(sys.argv[2])
def save(number, frame):
    (folder / f"saved-{os.environ['RANK']}").write_text(signal.Signals(number).name)
    sys.exit(code)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, save)
(folder / f"began-{os.environ['RANK']}-of-{os.environ['WORLD_SIZE']}").write_text("")
time.sleep(float(sys.argv[3]))
sys.exit(code)
"""


def start(folder: Path, code: int, seconds: float) -> subprocess.Popen[str]:
    """Two ranks that last so many seconds and end with this code, beside each other."""
    (folder / "rank.py").write_text(RANK, encoding="utf-8")
    arguments = [str(folder / "rank.py"), str(folder), str(code), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, *arguments], env=environment, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize(("code", "expected"), [(0, 0), (75, 75), (130, 130), (3, 1)])
def test_the_ranks_exit_code_is_the_command_s(tmp_path: Path, code: int, expected: int) -> None:
    process = start(tmp_path, code, 0.2)
    reported = process.communicate(timeout=90)[1]
    assert process.returncode == expected, reported
    assert {path.name for path in tmp_path.glob("began-*")} == {"began-0-of-2", "began-1-of-2"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)]
)
def test_a_signal_to_the_launcher_reaches_every_rank(
    tmp_path: Path, number: signal.Signals, expected: int
) -> None:
    process = start(tmp_path, expected, 60)
    for _ in range(600):
        if len(list(tmp_path.glob("began-*"))) == 2:
            break
        time.sleep(0.1)
    process.send_signal(number)
    reported = process.communicate(timeout=60)[1]
    assert process.returncode == expected, reported
    assert {path.name: path.read_text() for path in tmp_path.glob("saved-*")} == {
        "saved-0": number.name,
        "saved-1": number.name,
    }


def test_no_rank_at_all_is_refused_and_a_rank_knows_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PipelineError, match="at least 1"):
        launch_ranks([], 0)
    assert num_ranks_here() == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert num_ranks_here() == 2
