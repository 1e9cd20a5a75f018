"""The processes that read audio beside the training: signals that ask it to stop do not end them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker

from student.signals import STOP_SIGNALS


def start_fork_server() -> None:
    """Start Python's fork server, and the process that tracks its resources, unless they run.

    Queues and terminals signal the whole process group. Whoever starts with these signals blocked keeps
    them blocked, and so do its children: the workers read on until the training has saved itself.
    """
    with _blocked_stop_signals():
        resource_tracker.ensure_running()  # its start unblocks some of them in this process
    with _blocked_stop_signals():
        forkserver.ensure_running()


def obey_sigterm_of(process_id: int, worker: int) -> None:
    """Begin a worker of that process: it ends at once where that very process terminates it.

    worker : its number, which a DataLoader gives     PyTorch terminates a worker that outlives its loader,
    and Python waits for it at its own end.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # whoever started the fork server
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_wait_for_sigterm_of, args=(process_id,), daemon=True).start()
    else:  # macOS: a SIGTERM of the whole group ends the worker too
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _wait_for_sigterm_of(process_id: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != process_id:
        pass
    os._exit(0)


@contextmanager
def _blocked_stop_signals() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
