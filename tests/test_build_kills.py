"""Whatever is killed, and when: the finished cache is what an uninterrupted build makes, byte for byte."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest
from build_helpers import build_request, quiet, stored, texts

from teacher_cache.build.plan import BuildPlan
from teacher_cache.build.request import BuildRequest
from teacher_cache.build.run import BuildResult, build_cache
from teacher_cache.config import BuildConfig, CacheConfig
from teacher_cache.store.layout import CHUNK_ROWS
from teacher_cache.store.root import building_path
from teacher_cache.store.verify import verify_cache

KILLS = int(os.environ.get("BERT2CTC_TEST_KILLS", "3"))  # each costs some seconds; 20 before a release
WORKERS = 2
PATIENCE_SECONDS = 900  # ends a hang; a core that others use too is no hang

DRIVER = """
import json, signal, sys
from pathlib import Path
from test_build_kills import driven_request
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it ignored
from teacher_cache.build.run import build_cache
build_cache(driven_request(*map(Path, sys.argv[1:])))
"""


def driven_request(teacher_folder: Path, root: Path) -> BuildRequest:
    """What the killed driver builds; many small shards."""
    return build_request(
        teacher_folder,
        root,
        texts(max(2000, 400 * KILLS)),  # more shards than kills
        CacheConfig(top_k=32, masking="token"),
        BuildConfig(workers=WORKERS, rows_per_shard=CHUNK_ROWS, batch_tokens=256),
    )


class Driver:
    """A build in a process of its own, with its workers, in a session of its own."""

    def __init__(self, teacher_folder: Path, root: Path) -> None:
        self.root = root
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(teacher_folder), str(root)],
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def receipts(self) -> list[Path]:
        return sorted(self.root.glob(".building/*/receipts/*.json"))

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline, "the build does not go on"
            time.sleep(0.005)

    def workers(self) -> list[psutil.Process]:
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
            return [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        except psutil.NoSuchProcess:  # one of them, or all, ended in this moment
            return []

    def kill_alone(self) -> None:
        self.process.kill()
        self.process.communicate()

    def kill_everything(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture(scope="module")
def whole(bert_folder: Path, scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    """The uninterrupted build."""
    request = driven_request(bert_folder, tmp_path_factory.mktemp("whole"))
    return build_cache(dataclasses.replace(request, scheduler=scheduler), quiet)


@pytest.mark.slow
@pytest.mark.timeout(0)  # grows with the number of kills, the fixture's build too
def test_killed_workers_and_drivers_leave_what_an_uninterrupted_build_makes(
    bert_folder: Path, scheduler: str, whole: BuildResult, tmp_path: Path
) -> None:
    root = tmp_path / "killed"
    driver = Driver(bert_folder, root)
    driver.wait_for(lambda: len(driver.receipts) >= 2)
    (worker, *_) = driver.workers()
    worker.kill()
    finished = len(driver.receipts)
    driver.wait_for(lambda: len(driver.receipts) >= finished + 3)  # its shard was given to another
    driver.process.kill()
    driver.process.communicate()
    assert not list(root.glob("?" * 32))  # nothing is published

    driver = Driver(bert_folder, root)
    kept = {path: path.stat().st_mtime_ns for path in driver.receipts}
    driver.wait_for(lambda: len(driver.receipts) >= len(kept) + 2)
    os.killpg(driver.process.pid, signal.SIGINT)  # what Ctrl-C does: to the driver and all its workers
    said = driver.process.communicate(timeout=PATIENCE_SECONDS)[1]
    assert "run it again to go on" in said
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # finished shards are not built again

    request = dataclasses.replace(driven_request(bert_folder, root), scheduler=scheduler)
    building = building_path(root, whole.fingerprint)
    plan = BuildPlan.read(building)
    other = dataclasses.replace(request.build_config, batch_tokens=8192, rows_per_shard=4 * CHUNK_ROWS)
    lines: list[str] = []
    receipts = [json.loads(path.read_text()) for path in driver.receipts]
    resumed = build_cache(dataclasses.replace(request, build_config=other), lines.append)
    assert resumed.rows_scored == whole.rows_scored - sum(receipt["rows"] for receipt in receipts)
    assert BuildPlan.read(resumed.path) == plan  # the plan on the disk holds, whatever the config says now
    (held,) = (line for line in lines if "plan holds: " in line)
    assert "rows_per_shard 4096 -> 1024" in held and "batch_tokens 8192 -> " in held
    assert stored(resumed.path) == stored(whole.path)
    assert verify_cache(resumed.path) == []


@pytest.mark.slow
@pytest.mark.timeout(0)  # grows with the number of kills
def test_kills_at_random_moments_cost_no_more_than_what_was_in_flight(
    bert_folder: Path, whole: BuildResult, tmp_path: Path
) -> None:
    chooser, root, finished = random.Random(KILLS), tmp_path / "killed", {}
    driver = Driver(bert_folder, root)
    for kill in range(KILLS):
        if kill % 4:  # else at any moment, starting up included
            count = len(driver.receipts) + 1
            driver.wait_for(partial(_has_receipts_or_ended, driver, count))
        time.sleep(chooser.uniform(0, 1 if kill % 4 else 6))
        if driver.process.poll() is not None:
            break  # faster than the kills
        target = chooser.choice(["a worker", "the driver", "everything"])
        finished |= {path.name: path.read_bytes() for path in driver.receipts}
        workers = driver.workers()
        if target == "a worker" and workers:
            chooser.choice(workers).kill()
            continue
        (driver.kill_everything if target == "everything" else driver.kill_alone)()
        driver = Driver(bert_folder, root)
        if list(root.glob("?" * 32)):
            break  # published just before the kill: what lies there must be whole, see below
    error = driver.process.communicate(timeout=PATIENCE_SECONDS)[1]
    assert driver.process.returncode == 0, error
    (built,) = root.glob("?" * 32)
    assert stored(built) == stored(whole.path)
    assert verify_cache(built) == []
    receipts = {path.name: path.read_bytes() for path in (built / "receipts").iterdir()}
    assert {name: receipts[name] for name in finished} == finished  # none of them was built again


def _has_receipts_or_ended(driver: Driver, count: int) -> bool:
    return len(driver.receipts) >= count or driver.process.poll() is not None
