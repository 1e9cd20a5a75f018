"""Fixtures that several test files share."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from distributed import LocalCluster
from fakes import tiny_bert
from hypothesis import settings
from synthetic_cache import Plan, make, three_shards

if TYPE_CHECKING:
    from student.training.trainer import TrainingJob

# Commands that tests start compute with one thread too, unless a test says otherwise.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Slow machines are no fault. What decides whether a change lands draws the same examples every time; a
# person's own runs go on searching.
settings.register_profile("search", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "search")

# Files of many seconds and few tests, which are dealt out first: the last one holds up everybody.
_FIRST = (
    "test_experiments_decoders",
    "test_experiments_run",
    "test_build_kills",
    "test_pipeline_interruption",
    "test_whole_road",
    "test_on_a_gpu",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files come first; nothing else changes its place."""
    place = {name: number for number, name in enumerate(_FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture(autouse=True, scope="session")
def _few_threads() -> None:
    torch.set_num_threads(1)  # more threads than idle cores wait for each other


@pytest.fixture
def same_threads_afterwards() -> Iterator[None]:
    """For runs that set PyTorch's threads, which are the process's."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random-weight BERT that no test may change."""
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def plan(request: pytest.FixtureRequest) -> Plan:
    """The module's own PLAN, else one of three shards."""
    return getattr(request.module, "PLAN", None) or three_shards()


@pytest.fixture(scope="module")
def cache(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published cache of `plan`, which no test may change."""
    return make(tmp_path_factory.mktemp("root"), plan)


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    """Forty tones with labels, dev and units, that no test may change; each trains in a folder of its own."""
    from tiny_run import tiny_job

    return tiny_job(tmp_path_factory.mktemp("tiny"), num_train=40, num_dev=6)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real LibriSpeech beside the project; skipped with a reason where the variable is unset."""
    folder = os.environ.get("BERT2CTC_TEST_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("BERT2CTC_TEST_DATA names no folder of real LibriSpeech speech")
    return Path(folder)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server on this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_url(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty prefix of a bucket of its own, with the environment that fsspec needs to reach it."""
    import fsspec

    for name, value in (
        ("AWS_ENDPOINT_URL", s3_server),
        ("AWS_ACCESS_KEY_ID", "nobody"),
        ("AWS_SECRET_ACCESS_KEY", "nothing"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    bucket = uuid.uuid4().hex
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(bucket)
    return f"s3://{bucket}/prefix"


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """Two real workers for a whole file: starting them is what costs."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
        silence_logs=50,
    ) as cluster:
        yield cluster.scheduler_address
