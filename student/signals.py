"""A stop that waits for the step to end: the signals that ask for it, and the exit codes that report it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from student.errors import StudentError

REQUEUE_EXIT_CODE = 75  # EX_TEMPFAIL: a queue may start the same command again
CTRL_C_EXIT_CODE = 130  # as a shell reports a program that SIGINT ended
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)


class TrainingInterrupted(StudentError):
    """The run was asked to stop, saved itself and can go on.

    exit_code : 75 after SIGTERM, SIGUSR1 or SIGHUP, 130 after Ctrl-C
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


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


def heeded(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    """The signals that mean something to this process: under nohup SIGHUP is ignored, and stays so."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in numbers if not (is_ignored and number == signal.SIGHUP)]


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGTERM, SIGUSR1, SIGHUP and Ctrl-C into a request that the training loop reads between steps.

    Queues send SIGUSR1 some time before they end a job, and SIGTERM when they do; a terminal that is closed
    sends SIGHUP.
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

    previous = {number: signal.signal(number, note) for number in heeded(STOP_SIGNALS)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
