"""A scheduler that exists: joined with and without TLS, losing a worker, refused where it does not fit."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
from build_helpers import quiet, stored
from distributed import Client
from test_build_kills import driven_request

from teacher_cache.build.cluster import WORKER_ENVIRONMENT, connected, package_versions, refuse_other_versions
from teacher_cache.build.run import build_cache
from teacher_cache.errors import CacheError
from teacher_cache.store.verify import verify_cache


class Cluster:
    """`dask scheduler` and two `dask worker` processes, started the way a user starts them."""

    def __init__(self, folder: Path, environment: dict[str, str], protocol: str) -> None:
        self._environment = {**os.environ, **environment, "PYTHONPATH": str(Path(__file__).parents[1])}
        self._file = folder / "scheduler.json"
        shared = ["--no-dashboard", "--protocol", protocol, "--host", "127.0.0.1"]
        self._processes = [
            self._start("scheduler", "--port", "0", "--scheduler-file", str(self._file), *shared)
        ]
        self._wait(self._file.is_file)
        self.address: str = json.loads(self._file.read_text())["address"]
        for name in ("one", "two"):
            local = ["--local-directory", str(folder / name), "--nthreads", "1", "--no-nanny"]
            self._processes.append(self._start("worker", self.address, *local, *shared))

    def _start(self, role: str, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", role, *arguments],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _wait(self, condition: object) -> None:
        deadline = time.monotonic() + 60
        while not condition():  # type: ignore[operator]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def kill_a_worker(self) -> None:
        self._processes[1].kill()

    def close(self) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def tls_settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A certificate that signs itself, for scheduler, workers and client alike."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl command to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = str(folder / "certificate.pem"), str(folder / "key.pem")
    command = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout".split()
    subprocess.run([openssl, *command, key, "-out", certificate], check=True, capture_output=True)
    settings = {"distributed.comm.tls.ca-file": certificate, "distributed.comm.require-encryption": "true"}
    for role in ("scheduler", "worker", "client"):
        settings[f"distributed.comm.tls.{role}.cert"] = certificate
        settings[f"distributed.comm.tls.{role}.key"] = key
    return settings


def in_environment(settings: dict[str, str]) -> dict[str, str]:
    """Dask's own spelling of its settings as environment variables."""
    return {
        "DASK_" + name.replace(".", "__").replace("-", "_").upper(): value for name, value in settings.items()
    }


@pytest.fixture(params=["tcp", "tls"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    settings = request.getfixturevalue("tls_settings") if request.param == "tls" else {}
    cluster = Cluster(tmp_path, in_environment(settings), request.param)
    with dask.config.set(settings):
        yield cluster
    cluster.close()


@pytest.mark.slow
def test_a_cluster_that_exists_builds_though_a_worker_is_killed_midway(
    cluster: Cluster, bert_folder: Path, scheduler: str, tmp_path: Path
) -> None:
    request = dataclasses.replace(driven_request(bert_folder, tmp_path / "joined"), scheduler=cluster.address)
    killed = threading.Event()

    def kill_midway() -> None:
        while len(list(request.root.glob(".building/*/receipts/*.json"))) < 2:
            time.sleep(0.02)
        cluster.kill_a_worker()
        killed.set()

    threading.Thread(target=kill_midway, daemon=True).start()
    built = build_cache(request, quiet)
    assert killed.is_set()
    assert verify_cache(built.path) == []
    with dask.config.set({"distributed.comm.require-encryption": None}):
        own = dataclasses.replace(driven_request(bert_folder, tmp_path / "own"), scheduler=scheduler)
        assert stored(build_cache(own, quiet).path) == stored(built.path)


def test_a_tls_address_without_certificates_is_refused_in_one_line() -> None:
    with pytest.raises(CacheError, match="no Dask scheduler at tls://127.0.0.1:1 ") as refusal:
        with connected("tls://127.0.0.1:1", 1):
            pass
    assert "\n" not in str(refusal.value)


def test_workers_of_other_versions_are_refused_before_the_first_task(scheduler: str) -> None:
    with Client(scheduler) as client:
        refuse_other_versions(client, package_versions())
        with pytest.raises(CacheError, match=r"worker tcp://\S+ has torch \S+ there, 1.0 here; install"):
            refuse_other_versions(client, package_versions() | {"torch": "1.0"})


def test_workers_keep_freed_memory_for_the_next_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WORKER_ENVIRONMENT:  # a variable of the user's own would hold, and so would another cluster's
        monkeypatch.delenv(name, raising=False)
    with connected("", 1) as client:
        (environment,) = client.run(lambda: dict(os.environ)).values()
    assert environment.items() >= WORKER_ENVIRONMENT.items()


def test_a_scheduler_without_workers_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr("teacher_cache.build.cluster.CONNECT_TIMEOUT_SECONDS", 1)
    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None, silence_logs=50) as empty:
        with pytest.raises(CacheError, match="no worker has joined tcp://.* start some with `dask worker"):
            with connected(empty.scheduler_address, 1):
                pass
