from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from teacher_cache.common.lock import BuildLock, process_start, read_owner
from teacher_cache.errors import CacheError

ROOT = Path(__file__).parents[1]
HOLD_AND_DIE = """
import os, pathlib, signal, sys
from teacher_cache.common.lock import BuildLock
BuildLock(pathlib.Path(sys.argv[1])).__enter__()
os.kill(os.getpid(), signal.SIGKILL)
"""
COUNT_UP = """
import pathlib, sys, time
from teacher_cache.errors import CacheError
from teacher_cache.common.lock import BuildLock
lock, counter = map(pathlib.Path, sys.argv[1:])
for _ in range(25):
    while True:
        try:
            with BuildLock(lock, say=lambda line: None):
                value = int(counter.read_text())
                time.sleep(0.0005)
                counter.write_text(str(value + 1))
            break
        except CacheError:
            time.sleep(0.001)
"""


def python(code: str, *arguments: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environment)


def owner_json(**changes: object) -> str:
    pid = os.getpid()
    return json.dumps({"host": socket.gethostname(), "pid": pid, "started": process_start(pid), **changes})


def test_a_held_lock_names_its_owner_and_is_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.lock"
    with BuildLock(path):
        owner = read_owner(path)
        assert owner is not None and owner.pid == os.getpid() and not owner.is_dead
        with pytest.raises(
            CacheError, match=f"held by process {os.getpid()} on {socket.gethostname()}; wait"
        ):
            BuildLock(path).__enter__()
        assert read_owner(path) == owner
    assert read_owner(path) is None
    assert [entry.name for entry in path.parent.iterdir()] == [".guard"]


def test_a_lock_is_released_when_the_build_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), BuildLock(tmp_path / "a.lock"):
        raise ZeroDivisionError
    assert read_owner(tmp_path / "a.lock") is None


def test_a_killed_owner_is_replaced_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    killed = python(HOLD_AND_DIE, path)
    assert killed.wait() == -signal.SIGKILL
    said: list[str] = []
    with BuildLock(path, said.append):
        owner = read_owner(path)
        assert owner is not None and owner.pid == os.getpid()
    assert said == [f"a.lock: process {killed.pid} died here and left its lock; taken over"]


def test_a_process_id_used_again_is_not_its_predecessor(tmp_path: Path) -> None:
    (tmp_path / "a.lock").write_text(owner_json(started="an hour before"))
    with BuildLock(tmp_path / "a.lock", say=lambda line: None):
        pass


def test_a_lock_of_another_host_is_never_broken(tmp_path: Path) -> None:
    (tmp_path / "a.lock").write_text(owner_json(host="elsewhere", started="never"))
    with pytest.raises(CacheError, match="on elsewhere"):
        BuildLock(tmp_path / "a.lock").__enter__()
    assert (tmp_path / "a.lock").exists()


def test_a_lock_that_names_nobody_is_left_to_a_person(tmp_path: Path) -> None:
    (tmp_path / "a.lock").write_text("")
    with pytest.raises(CacheError, match=r"names no owner \(.*\); delete it if no build runs"):
        BuildLock(tmp_path / "a.lock").__enter__()


def test_no_two_processes_ever_hold_one_lock(tmp_path: Path) -> None:
    lock, counter = tmp_path / "a.lock", tmp_path / "counter"
    counter.write_text("0")
    lock.write_text(owner_json(started="dead"))  # they begin by quarrelling over a dead one's lock
    processes = [python(COUNT_UP, lock, counter) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert counter.read_text() == "100"
