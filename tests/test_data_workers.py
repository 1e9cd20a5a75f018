"""Workers outlive the signals of their group and end when the process that they read for terminates them."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import time

from student.data.workers import obey_sigterm_of, start_fork_server


def read_for(process_id: int, is_ready: multiprocessing.synchronize.Event) -> None:
    obey_sigterm_of(process_id, 0)
    is_ready.set()
    time.sleep(120)


def test_a_worker_is_deaf_to_everybody_but_its_own_process() -> None:
    context = multiprocessing.get_context("forkserver")
    start_fork_server()
    is_ready = context.Event()
    worker = context.Process(target=read_for, args=(os.getpid(), is_ready), daemon=True)
    worker.start()
    assert is_ready.wait(60)
    for name in ("USR1", "INT", "TERM"):
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    worker.join(0.5)
    assert worker.is_alive()
    worker.terminate()
    worker.join(20)
    assert worker.exitcode == 0
