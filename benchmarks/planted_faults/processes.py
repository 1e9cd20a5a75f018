"""Commands as processes: started afresh, or forked from one that has imported everything."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from case import Outcome
from state import command_line, environment

Sent = tuple[signal.Signals, float] | None


class Processes(Protocol):
    """What runs the commands of one case after the other."""

    def new_folder(self) -> Path:
        """Where the next state is to be copied; the last one is gone."""

    def run(self, folder: Path, words: Sequence[str], sent: Sent) -> Outcome:
        """How the command ended; a signal is sent to it after so many seconds."""

    def close(self) -> None:
        """Nothing is run afterwards."""


class Afresh:
    """A Python for each command, as a user has it."""

    def __init__(self, where: Path, patience_seconds: float) -> None:
        self.where, self.patience_seconds = where, patience_seconds
        self.number = 0

    def new_folder(self) -> Path:
        shutil.rmtree(self.where, ignore_errors=True)
        self.where.mkdir()
        return self.where / "state"

    def run(self, folder: Path, words: Sequence[str], sent: Sent) -> Outcome:
        process = subprocess.Popen(
            command_line(words, quick_to_signals=sent is not None),
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_signals_as_at_a_terminal,
        )
        later = threading.Timer(sent[1], _send, (process, sent[0])) if sent else None
        if later:
            later.start()
        try:
            output, errors = process.communicate(timeout=self.patience_seconds)
            code: int | None = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
            code = None
        if later:
            later.cancel()
        return Outcome(code, _text(output), _text(errors))

    def close(self) -> None:
        shutil.rmtree(self.where, ignore_errors=True)


class Preloaded(Afresh):
    """Children of one process that has imported what commands import; signals are sent to fresh ones."""

    def __init__(self, where: Path, patience_seconds: float) -> None:
        super().__init__(where, patience_seconds)
        self.server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("preloaded.py"))],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, folder: Path, words: Sequence[str], sent: Sent) -> Outcome:
        if sent:
            return super().run(folder, words, sent)
        assert self.server.stdin and self.server.stdout
        files = {name: str(folder.parent / name) for name in ("output", "errors")}
        request = {"where": str(folder), "words": list(words), **files}
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        child = json.loads(self.server.stdout.readline())["pid"]
        hung = threading.Event()

        def end() -> None:
            hung.set()
            os.kill(child, signal.SIGKILL)

        watch = threading.Timer(self.patience_seconds, end)
        watch.start()
        code = json.loads(self.server.stdout.readline())["code"]
        watch.cancel()
        output, errors = (_text(Path(path).read_bytes()) for path in files.values())
        return Outcome(None if hung.is_set() else code, output, errors)

    def close(self) -> None:
        self.server.communicate()
        super().close()


def _signals_as_at_a_terminal() -> None:
    """Background jobs and nohup leave signals ignored to their children."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)


def _send(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(number)


def _text(content: bytes) -> str:
    return content.decode("utf-8", errors="surrogateescape")
