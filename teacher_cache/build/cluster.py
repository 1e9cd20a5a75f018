"""The Dask workers that a build runs on: a cluster of this machine's own, or a scheduler that exists."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version

import dask
from distributed import Client, LocalCluster

from teacher_cache.common.differences import differences, listed, phrases
from teacher_cache.errors import CacheError
from teacher_cache.store.manifest import LABEL_VERSION

CONNECT_TIMEOUT_SECONDS = 15
# Dask's own setting returns freed memory to the system above 64 kB: a worker would fault in every batch's
# logits anew, and score a third fewer rows a second. Those thresholds hold for malloc's first arena alone,
# and tasks run on a second thread: one arena for all. One thread of each library is also Dask's default.
WORKER_ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
# Shards take seconds to minutes, and a worker needs its core: Dask's profiler and its fine clocks wake every
# process fifty to a hundred times a second, which cost two workers on two cores a sixth of their rows.
CLUSTER_SETTINGS = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT,
    # By the wall clock: a clock that is set forward would make every worker a lost one.
    "distributed.scheduler.worker-ttl": None,
}
SAME_VERSIONS = "install bert2ctc there with the same constraints.txt"
VERSIONED = ("torch", "transformers", "tokenizers", "zarr", "numcodecs", "numpy", "dask", "distributed")


def package_versions() -> dict[str, str]:
    """Versions of all that decides a stored byte, or whether processes understand each other."""
    versions = {"python": f"{sys.version_info[0]}.{sys.version_info[1]}", "label_version": str(LABEL_VERSION)}
    return versions | {name: version(name) for name in VERSIONED}


@contextmanager
def connected(scheduler: str, num_workers: int) -> Iterator[Client]:
    """A client of the scheduler at that address, or, for "", of a new cluster of `num_workers` processes.

    A `tls://` address takes its certificates from Dask's own configuration (`distributed.comm.tls`).
    Raises CacheError where nobody answers, no worker has joined, or a worker's versions are others.
    """
    if scheduler:
        with _joined(scheduler) as client:
            refuse_other_versions(client, package_versions())
            yield client
        return
    with dask.config.set(CLUSTER_SETTINGS):
        cluster = LocalCluster(
            n_workers=num_workers,
            threads_per_worker=1,  # Dask's; torch's own are set in the task
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,  # the model dominates; Dask would kill a worker that it thinks too fat
            silence_logs=logging.CRITICAL,
        )
    with cluster, Client(cluster) as client:
        yield client


def _joined(scheduler: str) -> Client:
    try:
        client = Client(scheduler, timeout=CONNECT_TIMEOUT_SECONDS)
    except (OSError, TypeError, ValueError) as error:  # TypeError: a tls:// address without certificates
        raise CacheError(
            f"no Dask scheduler at {scheduler} ({error}); start one, or leave --scheduler out"
        ) from error
    try:
        client.wait_for_workers(1, timeout=CONNECT_TIMEOUT_SECONDS)
    except TimeoutError:
        client.close()
        raise CacheError(
            f"no worker has joined {scheduler} within {CONNECT_TIMEOUT_SECONDS} s; "
            f"start some with `dask worker {scheduler}`"
        ) from None
    return client


def refuse_other_versions(client: Client, mine: Mapping[str, str]) -> None:
    """Raises CacheError that names the first worker whose versions are not `mine`."""
    answers = client.run(package_versions, on_error="return")
    for worker, theirs in sorted(answers.items()):
        if not isinstance(theirs, dict):
            raise CacheError(f"worker {worker} cannot run this code ({theirs}); {SAME_VERSIONS}")
        differing = phrases(differences(theirs, mine), "{key} {old} there, {new} here")
        if differing:
            raise CacheError(f"worker {worker} has {listed(differing, separator=', ')}; {SAME_VERSIONS}")
