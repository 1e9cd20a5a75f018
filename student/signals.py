"""One process per run, and a stop that waits for the step to end: lock, signals, exit codes."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TextIO

from student.errors import StudentError

REQUEUE_EXIT_CODE = 75  # EX_TEMPFAIL: a queue may start the same command again
CTRL_C_EXIT_CODE = 130  # as a shell reports a program that SIGINT ended
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_LOCK_NAME, _LOCK_TRIES, _LOCK_PAUSE_SECONDS = ".lock", 5, 0.02


class TrainingInterrupted(StudentError):
    """The run was asked to stop, saved itself and can go on.

    exit_code : 75 after SIGTERM or SIGUSR1, 130 after Ctrl-C
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RunBusy(StudentError):
    """Another process is training the run."""


class StopRequest:
    """Whether a signal asked for a stop, and which."""

    def __init__(self) -> None:
        self.signal_number = 0

    @property
    def exit_code(self) -> int:
        """What the process should end with."""
        return exit_code_after(self.signal_number)

    @property
    def name(self) -> str:
        """The signal in words."""
        return "Ctrl-C" if self.signal_number == signal.SIGINT else signal.Signals(self.signal_number).name

    def __bool__(self) -> bool:
        return self.signal_number != 0


def exit_code_after(signal_number: int) -> int:
    """What a training that this signal stopped ends with."""
    return CTRL_C_EXIT_CODE if signal_number == signal.SIGINT else REQUEUE_EXIT_CODE


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGTERM, SIGUSR1 and Ctrl-C into a request that the training loop reads between steps.

    Queues send SIGUSR1 some time before they end a job, and SIGTERM when they do.
    A second Ctrl-C stops at once. Outside the main thread signals keep their meaning.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and request:
            raise KeyboardInterrupt
        request.signal_number = number

    previous = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold the run folder; the system releases it when the process ends, however it ends.

    Raises RunBusy where another process holds it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / _LOCK_NAME).open("a+", encoding="utf-8") as stream:
        if not _acquired(stream):
            stream.seek(0)
            owner = stream.read().strip() or "unknown"
            raise RunBusy(
                f"{run_dir}: process {owner} is training it; wait for it or choose another folder with RUN="
            )
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        yield


def _acquired(stream: TextIO) -> bool:
    """Whether the lock is ours; asked more than once, because `is_running` holds it for a moment."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(_LOCK_PAUSE_SECONDS)
    return False


def is_running(run_dir: Path) -> bool:
    """True while a process trains the run, on this machine or another that shares the file system."""
    try:
        with (run_dir / _LOCK_NAME).open(encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
