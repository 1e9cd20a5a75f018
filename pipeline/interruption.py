"""Signals outside training: one line, and the code by which a shell reports them, from the start on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from student.signals import STOP_SIGNALS, heeded

_is_working = False


class Stopped(KeyboardInterrupt):
    """A signal ended the command: on its way out it lets go of locks and removes partial files."""

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.signal_number = signal_number


def catch_signals() -> None:
    """Let SIGINT, SIGTERM, SIGHUP and SIGUSR1 end this process in one line, without a traceback.

    What a command has begun it leaves in order, by `Stopped`. While a module is imported nothing is in order:
    the process ends at once, as a kill would end it. A signal that was ignored before stays ignored. What
    comes during Python's own start waits for this where `bin/bert2ctc` or a command of ours started it.
    """
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked child has no command to end
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif _is_working and not _is_importing(frame):
            raise Stopped(number)
        else:
            os.write(sys.stderr.fileno(), f"{line_of(number)}\n".encode())
            os._exit(exit_code_of(number))

    for number in heeded(STOP_SIGNALS):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


@contextmanager
def working() -> Iterator[None]:
    """In the block a signal raises `Stopped` in the main thread; outside it ends the process at once."""
    global _is_working
    _is_working = True
    try:
        yield
    finally:
        _is_working = False


def line_of(signal_number: int) -> str:
    """What a person reads of a command that a signal ended."""
    how = (
        "interrupted"
        if signal_number == signal.SIGINT
        else f"stopped by {signal.Signals(signal_number).name}"
    )
    return f"Error: {how}; run the same command again to go on"


def exit_code_of(signal_number: int) -> int:
    """As a shell reports a program that the signal ended: 130, 143, 129, 138."""
    return 128 + signal_number


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
