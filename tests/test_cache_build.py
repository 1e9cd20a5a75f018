"""A build is one function of its passages: workers, kills, order and reuse change no byte of its arrays."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from distributed import LocalCluster
from fakes import WORDS, sentences

from teacher_cache.build import BuildResult, build_cache
from teacher_cache.config import BuildConfig, CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.job import BuildRequest
from teacher_cache.layout import CHUNK_ROWS, MAX_ROWS_PER_SHARD, ROW_ARRAYS, TABLE_ARRAYS
from teacher_cache.passages import Passage, passages_of
from teacher_cache.plan import BuildPlan, choose_rows_per_shard
from teacher_cache.preview import preview_build
from teacher_cache.store import TeacherCacheReader, building_path, resolve
from teacher_cache.verify import verify_cache

# Words that the tiny BERT spells with several pieces, so that whole words are cut by shard edges.
SPELT = ("shipshape", "don't", "moonlight", "kingdom")


@dataclass(frozen=True)
class Entry:
    id: str
    text: str
    chapter: str = "c"
    position: int = 0


def entries_of(texts: Sequence[str]) -> list[Entry]:
    return [Entry(f"u{index}", text, position=index) for index, text in enumerate(texts)]


TEXTS = sentences(500, seed=1, words=(*WORDS, *SPELT))


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """Two real workers for the whole file: starting them is what costs."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
        silence_logs=50,
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def request_for(bert_folder: Path, scheduler: str, tmp_path: Path) -> Callable[..., BuildRequest]:
    def make(texts: Sequence[str] = TEXTS, **changes: object) -> BuildRequest:
        cache = {"top_k": 8, "masking": changes.pop("masking", "token")}
        plain = BuildRequest(
            entries={"train": entries_of(texts)},
            teacher_folder=bert_folder,
            cache_config=CacheConfig(**cache),
            build_config=BuildConfig(rows_per_shard=CHUNK_ROWS, batch_tokens=1024),
            root=tmp_path / "cache",
            name="demo",
            normaliser={"name": "plain", "version": 1},
            scheduler=scheduler,
        )
        return dataclasses.replace(plain, **changes)

    return make


@pytest.fixture(scope="module")
def reference(
    bert_folder: Path, scheduler: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[BuildRequest, BuildResult]:
    """One uninterrupted build of TEXTS that no test may change."""
    request = BuildRequest(
        entries={"train": entries_of(TEXTS)},
        teacher_folder=bert_folder,
        cache_config=CacheConfig(top_k=8, masking="whole_word"),
        build_config=BuildConfig(rows_per_shard=CHUNK_ROWS, batch_tokens=1024),
        root=tmp_path_factory.mktemp("reference"),
        name="demo",
        normaliser={"name": "plain", "version": 1},
        scheduler=scheduler,
    )
    return request, build_cache(request)


def stored(path: Path) -> dict[str, bytes]:
    """Every file of the arrays, as it lies on the disk."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for array in (*ROW_ARRAYS, *TABLE_ARRAYS)
        for file in sorted((path / array).rglob("*"))
        if file.is_file()
    }


def quiet(line: str) -> None:
    del line


def test_a_build_is_sound_complete_and_named(reference: tuple[BuildRequest, BuildResult]) -> None:
    request, result = reference
    assert verify_cache(result.path) == []
    assert resolve(request.root, "demo") == result.path
    assert not result.reused
    assert result.rows_scored == result.quality["rows"] > 4 * CHUNK_ROWS
    reader = TeacherCacheReader(result.path)
    reader.require({p.text: p.digest for p in passages_of(request.entries["train"], request.cache_config)})
    targets = reader.targets(Passage("", "don't", "").digest) if "don't" in TEXTS else None
    assert targets is None or len(targets.gold_ids) == 5
    for text in TEXTS[:20]:
        assert len(reader.targets(Passage("", text, "").digest).gold_ids) >= len(text.split())


def test_one_worker_equals_two_byte_for_byte(
    reference: tuple[BuildRequest, BuildResult], tmp_path: Path
) -> None:
    request, result = reference
    build = dataclasses.replace(request.build_config, workers=1)
    alone = build_cache(dataclasses.replace(request, root=tmp_path, scheduler="", build_config=build), quiet)
    assert alone.fingerprint == result.fingerprint
    assert stored(alone.path) == stored(result.path)


def test_order_ids_and_duplicates_of_utterances_change_nothing(
    reference: tuple[BuildRequest, BuildResult], request_for: Callable[..., BuildRequest]
) -> None:
    shuffled = [*reversed(TEXTS), *TEXTS[:50]]
    result = build_cache(request_for(shuffled, masking="whole_word"), quiet)
    assert result.fingerprint == reference[1].fingerprint
    assert stored(result.path) == stored(reference[1].path)


def test_rows_do_not_depend_on_where_shards_are_cut(
    reference: tuple[BuildRequest, BuildResult], request_for: Callable[..., BuildRequest]
) -> None:
    whole = BuildConfig(rows_per_shard=MAX_ROWS_PER_SHARD, batch_tokens=100)
    result = build_cache(request_for(masking="whole_word", build_config=whole), quiet)
    assert result.fingerprint == reference[1].fingerprint  # shard size decides no label
    many, one = TeacherCacheReader(reference[1].path), TeacherCacheReader(result.path)
    for text in TEXTS:  # a word cut by an edge among them
        digest = Passage("", text, "").digest
        np.testing.assert_allclose(
            many.targets(digest).tail_logprob, one.targets(digest).tail_logprob, atol=1e-4
        )
        np.testing.assert_allclose(
            many.targets(digest).top_logprobs, one.targets(digest).top_logprobs, atol=1e-3
        )


def test_a_second_build_reuses_and_says_so(request_for: Callable[..., BuildRequest]) -> None:
    first = build_cache(request_for(TEXTS[:40]), quiet)
    before = stored(first.path)
    said: list[str] = []
    second = build_cache(request_for(TEXTS[:40], name="again", scheduler="tcp://127.0.0.1:1"), said.append)
    assert second.reused
    assert (second.path, second.rows_scored) == (first.path, 0)
    assert f"cache {first.fingerprint} holds every passage already; nothing to build" in said
    assert resolve(first.path.parent, "again") == first.path
    assert stored(first.path) == before


def test_more_data_serves_less_and_less_is_copied_into_more(
    reference: tuple[BuildRequest, BuildResult], request_for: Callable[..., BuildRequest]
) -> None:
    few = build_cache(request_for(TEXTS[:400], masking="whole_word"), quiet)
    more = build_cache(request_for(masking="whole_word"), quiet)
    assert more.rows_reused == few.rows_scored
    assert more.rows_scored + more.rows_reused == reference[1].rows_scored
    assert more.fingerprint == reference[1].fingerprint
    assert verify_cache(more.path) == []
    fresh, grown = TeacherCacheReader(reference[1].path), TeacherCacheReader(more.path)
    for text in TEXTS:
        digest = Passage("", text, "").digest
        one, other = fresh.targets(digest), grown.targets(digest)
        np.testing.assert_array_equal(one.gold_ids, other.gold_ids)
        np.testing.assert_allclose(one.top_logprobs, other.top_logprobs, atol=1e-3)
    shutil.rmtree(few.path)
    assert build_cache(request_for(TEXTS[:400], masking="whole_word", name="few"), quiet).path == more.path


def test_another_recipe_never_gives_rows(request_for: Callable[..., BuildRequest]) -> None:
    one = build_cache(request_for(TEXTS[:30]), quiet)
    other = build_cache(request_for(TEXTS[:30], normaliser={"name": "plain", "version": 2}), quiet)
    assert other.rows_scored == one.rows_scored
    assert other.path != one.path


def test_neighbours_are_of_the_same_split(request_for: Callable[..., BuildRequest]) -> None:
    config = CacheConfig(top_k=8, context="chapter", context_words=10)
    request = request_for(cache_config=config, entries={})
    train, dev = entries_of(TEXTS[:6]), entries_of(TEXTS[6:9])
    result = build_cache(dataclasses.replace(request, entries={"train": train, "dev": dev}), quiet)
    reader = TeacherCacheReader(result.path)
    for split in (train, dev):
        reader.require({passage.text: passage.digest for passage in passages_of(split, config)})
    assert len(reader) == 9


def test_a_preview_tells_rows_shards_and_bytes_and_writes_nothing(
    reference: tuple[BuildRequest, BuildResult], request_for: Callable[..., BuildRequest]
) -> None:
    request = request_for(masking="whole_word")
    preview = preview_build(request)
    assert not request.root.exists()
    manifest = TeacherCacheReader(reference[1].path).manifest
    assert preview.fingerprint == reference[1].fingerprint
    assert (preview.rows, preview.shards) == (manifest.layout.num_rows, manifest.layout.num_shards)
    assert preview.rows_to_score == preview.rows
    assert preview.bytes > preview.rows * (8 * 4 + 2 + 4 + 2 * 2 * 4)
    assert preview.expected_seconds > 0
    covered = preview_build(reference[0])
    assert covered.covered_by == reference[1].path
    assert covered.rows_to_score == covered.expected_seconds == 0


def test_a_failing_teacher_is_told_with_host_shard_and_transcript(
    request_for: Callable[..., BuildRequest], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    request = request_for(TEXTS[:20])
    folder = shutil.copytree(request.teacher_folder, tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    weights["bert.encoder.layer.1.output.dense.bias"][3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        CacheError, match=r"^\S+: shard 0: the teacher yields NaN or infinity for passage '\w+"
    ):
        build_cache(dataclasses.replace(request, teacher_folder=folder), quiet)
    assert not [path for path in request.root.glob("*") if path.name != ".building"]


def test_nothing_to_label_is_told(request_for: Callable[..., BuildRequest]) -> None:
    with pytest.raises(CacheError, match="no transcripts in train"):
        build_cache(request_for([]), quiet)


@pytest.mark.parametrize("num_rows", [1, 5000, 100_000, 1_000_000, 20_000_000])
@pytest.mark.parametrize("num_workers", [1, 2, 16])
def test_every_worker_gets_several_shards_where_rows_suffice(num_rows: int, num_workers: int) -> None:
    rows = choose_rows_per_shard(num_rows, num_workers)
    assert rows % CHUNK_ROWS == 0
    assert CHUNK_ROWS <= rows <= MAX_ROWS_PER_SHARD
    assert rows == CHUNK_ROWS or num_rows / rows >= 4 * num_workers


DRIVER = """
import json, signal, sys
from pathlib import Path
from test_cache_build import driven_request
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits it ignored
from teacher_cache.build import build_cache
build_cache(driven_request(*map(Path, sys.argv[1:])))
"""


def driven_request(teacher_folder: Path, root: Path) -> BuildRequest:
    """What the killed driver builds; many small shards."""
    return BuildRequest(
        entries={"train": entries_of(sentences(2000, seed=1, words=(*WORDS, *SPELT)))},
        teacher_folder=teacher_folder,
        cache_config=CacheConfig(top_k=32, masking="token"),
        build_config=BuildConfig(workers=2, rows_per_shard=CHUNK_ROWS, batch_tokens=256),
        root=root,
        name="demo",
        normaliser={"name": "plain", "version": 1},
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
        deadline = time.monotonic() + 200
        while not is_so():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline, "the build does not go on"
            time.sleep(0.005)

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_killed_workers_and_drivers_leave_what_an_uninterrupted_build_makes(
    bert_folder: Path, scheduler: str, tmp_path: Path
) -> None:
    whole = build_cache(
        dataclasses.replace(driven_request(bert_folder, tmp_path / "whole"), scheduler=scheduler), quiet
    )
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
    said = driver.process.communicate(timeout=60)[1]
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
    assert any("plan holds: rows_per_shard 4096 -> 1024" in line for line in lines)
    assert stored(resumed.path) == stored(whole.path)
    assert verify_cache(resumed.path) == []
