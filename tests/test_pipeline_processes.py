"""A chain of commands ends as its part ended: a queue may start again what a signal stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import processes as commands
from pipeline.processes import CommandFailed, run_command


def stand_in(path: Path, script: str) -> str:
    """A program in the place of Python that does what the script says."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("ending", "code"), [("exit 75", 75), ("exit 3", 1), ("kill $$", 75), ("kill -9 $$", 1)]
)
def test_only_the_code_for_starting_again_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, code: int
) -> None:
    monkeypatch.setattr(commands.sys, "executable", stand_in(tmp_path / "python", ending))
    with pytest.raises(CommandFailed, match="ended with code") as caught:
        run_command("train", "demo")
    assert caught.value.exit_code == code


def test_a_queue_s_signals_reach_the_command_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in signals us as a queue would, and ends with code 75 once the signal has come back."""
    script = "trap 'exit 75' USR1\nkill -USR1 $PPID\nwhile true; do sleep 0.05; done"
    monkeypatch.setattr(commands.sys, "executable", stand_in(tmp_path / "python", script))
    with pytest.raises(CommandFailed) as caught:
        run_command("train", "demo")
    assert caught.value.exit_code == 75
