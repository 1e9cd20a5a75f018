"""Wherever rows are kept, and whichever process reads them, a transcript has the same labels."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from contracts import (
    law_a_backend_gives_the_rows_of_the_store,
    law_a_backend_refuses_rows_of_no_receipt,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_cache import Plan, three_shards

from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.store import TeacherCacheReader, TeacherTargets, read_manifest
from teacher_cache.store.arrays import CacheArrays
from teacher_cache.store.checked_cache import CheckedCache
from teacher_cache.store.memory_map import MappedRows, ensure_map, map_path
from teacher_cache.store.old_receipts import column_digests
from teacher_cache.store.row_backends import BACKENDS, ChunkRows, MemoryRows, RowBackend
from teacher_cache.store.row_source import RowSource
from teacher_cache.store.view import View, row_bytes

CONFIG = CacheConfig(top_k=40, temperatures=(1.0, 2.0))  # three inner chunks of columns
PLAN = three_shards(CONFIG)
PARTS = ("gold_ids", "top_ids", "top_logprobs", "tail_logprob")
WITHOUT_MEMORY = 0.0


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


def equal(one: TeacherTargets, other: TeacherTargets) -> bool:
    return all(np.array_equal(getattr(one, part), getattr(other, part)) for part in PARTS)


def digest_of(targets: TeacherTargets) -> str:
    sha256 = hashlib.sha256()
    for part in PARTS:
        sha256.update(getattr(targets, part).tobytes())
    return sha256.hexdigest()


def source(cache: Path, view: View, scratch: Path | None = None) -> RowSource:
    checked = CheckedCache(cache)
    return RowSource(checked, view, column_digests(checked, scratch))


def _map(cache: Path, view: View, folder: Path) -> MappedRows:
    manifest = read_manifest(cache)
    ensure_map(
        folder / "rows.map", manifest, view, lambda: (CheckedCache(cache), source(cache, view, folder))
    )
    return MappedRows(folder / "rows.map", manifest.layout, view)


# What opens each backend, given an empty folder; one that comes later is one more entry.
OPENED: dict[str, Callable[[Path, View, Path], RowBackend]] = {
    "memory": lambda cache, view, folder: MemoryRows(source(cache, view, folder)),
    "map": _map,
    "chunks": lambda cache, view, folder: ChunkRows(source(cache, view, folder), 1 << 30),
    "chunks, one at a time": lambda cache, view, folder: ChunkRows(source(cache, view, folder), 0),
}
VIEWS = (View(40, 1.0, "bucket"), View(7, 2.0, "bucket"), View(17, 3.3, "renormalise"))


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
@pytest.mark.parametrize("name", OPENED)
def test_every_backend_gives_the_rows_of_the_store(
    cache: Path, plan: Plan, tmp_path: Path, name: str, view: View
) -> None:
    num_rows = plan.layout.num_rows
    edges = [
        slice(1000, 1100),
        slice(1023, 1025),
        slice(1024, 2048),
        slice(0, num_rows),
        slice(num_rows - 1, num_rows),
    ]
    random = np.random.default_rng(0)
    starts = random.integers(0, num_rows - 60, 20).tolist()
    spans = [*edges, *(slice(start, start + int(random.integers(1, 60))) for start in starts), slice(0, 1)]
    law_a_backend_gives_the_rows_of_the_store(
        lambda cache, view: OPENED[name](cache, view, tmp_path), cache, view, spans
    )


@pytest.mark.parametrize("name", OPENED)
def test_every_backend_refuses_a_row_that_was_never_written(cache: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(cache, tmp_path / cache.name)
    (copy / "row/top_id/c/2/0").unlink()
    law_a_backend_refuses_rows_of_no_receipt(
        lambda cache, view: OPENED[name](cache, view, tmp_path),
        copy,
        VIEWS[0],
        row=2048,
        said="row 2048 was never written",
    )


def test_every_backend_of_the_reader_is_held_to_the_laws() -> None:
    assert {name.partition(",")[0] for name in OPENED} == set(BACKENDS)


@given(
    top_k=st.integers(1, CONFIG.top_k),
    temperature=st.sampled_from(CONFIG.temperatures) | st.floats(0.3, 9),
    tail=st.sampled_from(["bucket", "renormalise"]),
    places=st.lists(st.integers(0, 399), min_size=1, max_size=12),
)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_all_ways_to_hold_rows_give_identical_labels(
    cache: Path, plan: Plan, scratch: Path, top_k: int, temperature: float, tail: str, places: list[int]
) -> None:
    if tail == "bucket" and temperature not in CONFIG.temperatures:
        temperature = 2.0
    one, *others = (
        TeacherCacheReader(
            cache,
            top_k=top_k,
            temperature=temperature,
            tail=tail,
            backend=backend,
            memory_megabytes=WITHOUT_MEMORY,  # of chunks: one at a time
            scratch=scratch,
        )
        for backend in BACKENDS
    )
    for place in places:
        digest = plan.passages[place].digest
        expected = one.targets(digest)
        assert all(equal(other.targets(digest), expected) for other in others)
    digests = [plan.passages[place].digest for place in places]
    for reader in (one, *others):
        law_a_batch_is_its_transcripts(reader, digests)


def law_a_batch_is_its_transcripts(reader: TeacherCacheReader, digests: list[bytes]) -> None:
    """One gather gives what as many look-ups give, and padding stands nowhere else than behind an end."""
    batch, single = reader.batch(digests), [reader.targets(digest) for digest in digests]
    assert batch.lengths.tolist() == [len(targets.gold_ids) for targets in single]
    assert all(equal(batch[number], targets) for number, targets in enumerate(single))
    longest = int(batch.lengths.max(initial=0))
    padded = [batch.padded(getattr(batch.rows, part), -7) for part in PARTS]
    for part, values in zip(PARTS, padded, strict=True):
        assert values.shape[:2] == (len(digests), longest)
        assert values.dtype == getattr(batch.rows, part).dtype
        for row, targets in zip(values, single, strict=True):
            own = getattr(targets, part)
            assert np.array_equal(row[: len(own)], own) and (row[len(own) :] == -7).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_without_transcripts_is_empty_and_an_absent_one_is_named(
    cache: Path, plan: Plan, tmp_path: Path, backend: str
) -> None:
    reader = TeacherCacheReader(cache, backend=backend, scratch=tmp_path)
    law_a_batch_is_its_transcripts(reader, [])
    held, absent = plan.passages[0].digest, b"\xff" * 16
    with pytest.raises(CacheError, match=f"no passage {absent.hex()}; label it with"):
        reader.batch([held, absent, bytes(16)])


def test_the_memory_limit_chooses(cache: Path, tmp_path: Path) -> None:
    reader = TeacherCacheReader(cache)
    megabytes = reader.num_bytes / 2**20
    assert reader.backend == "memory"
    assert reader.num_bytes == len(CacheArrays(cache).read("row/gold_id")) * (2 + 40 * 4 + 8)

    def chosen(limit: float, scratch: Path | None) -> str:
        return TeacherCacheReader(cache, memory_megabytes=limit, scratch=scratch).backend

    assert chosen(megabytes, tmp_path) == chosen(megabytes, None) == "memory"
    assert chosen(0.99 * megabytes, tmp_path) == "map"
    assert chosen(0.99 * megabytes, None) == "chunks"
    assert TeacherCacheReader(cache, top_k=4, memory_megabytes=0.99 * megabytes).backend == "memory"
    with pytest.raises(CacheError, match="backend 'disk' is not one of"):
        TeacherCacheReader(cache, backend="disk")
    with pytest.raises(CacheError, match="a memory map needs a folder"):
        TeacherCacheReader(cache, backend="map")


def test_chunks_stay_within_the_limit_and_the_last_used_are_kept(
    cache: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    whole = RowSource.chunk
    monkeypatch.setattr(RowSource, "chunk", lambda self, number: read.append(number) or whole(self, number))
    view = View(8, 1.0, "bucket")
    chunk_bytes = row_bytes(plan.layout, view) * 1024
    chunks = ChunkRows(source(cache, view), 2 * chunk_bytes)
    for row in (0, 1024, 0, 2048, 0, 1024):  # 1024 is the one that has to go
        chunks.rows(slice(row, row + 3))
        assert chunks.held_bytes <= 2 * chunk_bytes
    assert read == [0, 1, 2, 1]
    across = chunks.rows(slice(1000, 1100))
    assert np.array_equal(across.gold_id, plan.rows.gold_id[1000:1100])


def test_a_view_reads_no_column_that_it_does_not_need(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, int] = {}
    whole = CacheArrays.read

    def counted(self: CacheArrays, name: str, selection: object = np.s_[:]) -> np.ndarray:
        values = whole(self, name, selection)
        asked[name] = values.shape[1] if values.ndim == 2 else 1
        return values

    monkeypatch.setattr(CacheArrays, "read", counted)
    TeacherCacheReader(cache, top_k=8, tail="renormalise", temperature=3.0).prepare()
    assert asked["row/top_id"] == asked["row/top_logprob"] == 16  # one column chunk out of three
    assert "row/lognorm" not in asked and "row/tail_logprob" not in asked
    TeacherCacheReader(cache, top_k=8).prepare()
    assert (asked["row/top_id"], asked["row/top_logprob"]) == (16, 40)  # their mass joins the tail
    assert asked["row/lognorm"] == asked["row/tail_logprob"] == 2


def mapped(cache: Path, scratch: Path, **changes: object) -> TeacherCacheReader:
    return TeacherCacheReader(cache, backend="map", scratch=scratch, **{"top_k": 8, **changes})


def test_a_map_is_written_once_and_views_do_not_share_one(cache: Path, plan: Plan, tmp_path: Path) -> None:
    digest = plan.passages[0].digest
    reader = mapped(cache, tmp_path)
    expected = reader.targets(digest)
    path = map_path(tmp_path, reader.fingerprint, reader.view)
    before = path.stat()
    assert before.st_size == pytest.approx(reader.num_bytes, rel=0.2)
    time.sleep(0.01)
    assert equal(mapped(cache, tmp_path).targets(digest), expected)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    mapped(cache, tmp_path, top_k=9).prepare()
    mapped(cache, tmp_path, temperature=2.0).prepare()
    assert len(list(tmp_path.glob("*.map"))) == 3
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("damage", ["flipped", "truncated", "header", "of another cache", "empty"])
def test_a_damaged_map_is_written_anew_and_never_read(
    cache: Path, plan: Plan, tmp_path: Path, damage: str
) -> None:
    reader = mapped(cache, tmp_path)
    expected = [reader.targets(passage.digest) for passage in plan.passages]
    path = map_path(tmp_path, reader.fingerprint, reader.view)
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-5000] ^= 4
    elif damage == "header":
        content[3] ^= 1
    elif damage == "of another cache":
        content[:200] = content[:200].replace(reader.fingerprint.encode(), b"0" * 32)
    path.unlink()  # the reader above keeps what it has mapped
    path.write_bytes({"truncated": content[:-4096], "empty": b""}.get(damage, content))
    again = mapped(cache, tmp_path)
    for passage, wanted in zip(plan.passages, expected, strict=True):
        assert equal(again.targets(passage.digest), wanted)
        assert equal(reader.targets(passage.digest), wanted)


def test_a_map_that_cannot_be_written_is_one_line(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheError, match=r"cannot write the memory map .*BERT2CTC_SCRATCH") as told:
        mapped(cache, tmp_path / "file").prepare()
    assert "\n" not in str(told.value)


def test_a_damaged_cache_leaves_no_map(cache: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(cache, tmp_path / cache.name)
    (copy / "row/top_id/c/2/0").unlink()
    with pytest.raises(CacheError, match="row 2048 was never written"):
        mapped(copy, tmp_path / "scratch").prepare()
    assert not [file for file in (tmp_path / "scratch").iterdir() if file.suffix != ".lock"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_pickling_a_reader_takes_no_rows(cache: Path, plan: Plan, tmp_path: Path, backend: str) -> None:
    reader = TeacherCacheReader(cache, backend=backend, scratch=tmp_path)
    expected = reader.targets(plan.passages[5].digest)
    assert len(reader.vocabulary) == 90
    sent = pickle.dumps(reader)
    assert len(sent) < 10_000 < reader.num_bytes
    assert equal(pickle.loads(sent).targets(plan.passages[5].digest), expected)


def _read_all(reader: TeacherCacheReader, digests: list[bytes], answers: multiprocessing.Queue) -> None:
    whole = hashlib.sha256("".join(digest_of(reader.targets(d)) for d in digests).encode()).hexdigest()
    answers.put((os.getpid(), whole))


@pytest.fixture
def forkserver() -> Iterator[multiprocessing.context.ForkServerContext]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["teacher_cache.store"])  # ten imports of it would take a minute here
    yield context


@pytest.mark.parametrize("backend", BACKENDS)
def test_ten_processes_read_at_once_and_get_the_same(
    cache: Path,
    plan: Plan,
    tmp_path: Path,
    backend: str,
    forkserver: multiprocessing.context.ForkServerContext,
) -> None:
    """None of them prepared: under "map" all ten want to write it."""
    digests = [passage.digest for passage in plan.passages[::8]]
    alone = TeacherCacheReader(cache, top_k=6)
    expected = hashlib.sha256("".join(digest_of(alone.targets(d)) for d in digests).encode()).hexdigest()
    reader = TeacherCacheReader(
        cache, top_k=6, backend=backend, scratch=tmp_path, memory_megabytes=WITHOUT_MEMORY
    )
    answers = forkserver.Queue()
    processes = [forkserver.Process(target=_read_all, args=(reader, digests, answers)) for _ in range(10)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert len({pid for pid, _ in found}) == 10
    assert {whole for _, whole in found} == {expected}
    assert len(list(tmp_path.glob("*.map"))) == (backend == "map")
