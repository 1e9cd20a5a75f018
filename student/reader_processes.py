"""The processes that read audio beside the training: deaf to the signals that ask the training to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker

from student.interruption import STOP_SIGNALS


def start_fork_server() -> None:
    """Start Python's fork server, and the process that tracks its resources, unless they run.

    Queues and terminals signal the whole process group. Whoever starts with these signals blocked keeps
    them blocked, and so do its children: the workers read on until the training has saved itself.
    """
    with _blocked_stop_signals():
        resource_tracker.ensure_running()  # its start unblocks some of them in this process
    with _blocked_stop_signals():
        forkserver.ensure_running()


@contextmanager
def _blocked_stop_signals() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
