"""A chain of commands ends as its part ended: a queue may start again what a signal stopped."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from pipeline import processes as commands
from pipeline.processes import CommandFailed, run_command


def stand_in(path: Path, script: str) -> str:
    """A program in the place of Python that does what the script says."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def killed_by(name: str) -> str:
    """A script that lets the signal through, as our commands do in their first line, and dies of it."""
    code = (
        "import os, signal; "
        f"signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.{name}]); os.kill(os.getpid(), signal.{name})"
    )
    return f"exec {sys.executable} -c '{code}'"


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("exit 75", 75),
        ("exit 3", 1),
        (killed_by("SIGTERM"), 75),
        (killed_by("SIGHUP"), 75),
        ("kill -9 $$", 1),
        ("exit 143", 75),  # SIGTERM before it could save
        ("exit 138", 75),
        ("exit 129", 75),
        ("exit 130", 1),
    ],
)
def test_only_the_code_for_starting_again_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, code: int
) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    monkeypatch.setattr(commands.sys, "executable", stand_in(tmp_path / "python", ending))
    with pytest.raises(CommandFailed, match="ended with code") as caught:
        run_command("train", "demo")
    assert caught.value.exit_code == code


@pytest.mark.parametrize("number", ["TERM", "USR1", "HUP"])
def test_a_queue_s_signals_reach_the_command_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    """The stand-in signals us as a queue would, and ends with code 75 once the signal has come back."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    script = f"trap 'exit 75' {number}\nkill -{number} $PPID\nwhile true; do sleep 0.05; done"
    monkeypatch.setattr(commands.sys, "executable", stand_in(tmp_path / "python", script))
    with pytest.raises(CommandFailed) as caught:
        run_command("train", "demo")
    assert caught.value.exit_code == 75
