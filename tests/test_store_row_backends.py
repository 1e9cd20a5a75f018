"""Wherever rows are kept, and whichever process reads them, a transcript has the same labels."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_cache import Plan, make, passages_named, plan_of

from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.store import TeacherCacheReader, TeacherTargets
from teacher_cache.store import view as view_module
from teacher_cache.store.arrays import CacheArrays
from teacher_cache.store.memory_map import map_path
from teacher_cache.store.row_backends import ChunkRows
from teacher_cache.store.view import View

CONFIG = CacheConfig(top_k=40, temperatures=(1.0, 2.0))
PARTS = ("gold_ids", "top_ids", "top_logprobs", "tail_logprob")
HELD = ("memory", "map", "chunks")
WITHOUT_MEMORY = 0.0


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(passages_named(400), config=CONFIG)


@pytest.fixture(scope="module")
def cache(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published cache of three shards that no test may change."""
    path = make(tmp_path_factory.mktemp("root"), plan)
    assert plan.layout.num_shards == 3
    return path


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


@given(
    top_k=st.integers(1, CONFIG.top_k),
    temperature=st.sampled_from(CONFIG.temperatures) | st.floats(0.3, 9),
    tail=st.sampled_from(["bucket", "renormalise"]),
    places=st.lists(st.integers(0, 399), min_size=1, max_size=12),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
            hold=hold,
            memory_megabytes=WITHOUT_MEMORY,  # of chunks: one at a time
            scratch=scratch,
        )
        for hold in HELD
    )
    for place in places:
        digest = plan.passages[place].digest
        expected = one.targets(digest)
        assert all(equal(other.targets(digest), expected) for other in others)


def test_the_memory_limit_chooses(cache: Path, tmp_path: Path) -> None:
    reader = TeacherCacheReader(cache)
    megabytes = reader.num_bytes / 2**20
    assert reader.hold == "memory"
    assert reader.num_bytes == len(CacheArrays(cache).read("row/gold_id")) * (2 + 40 * 4 + 8)

    def chosen(limit: float, scratch: Path | None) -> str:
        return TeacherCacheReader(cache, memory_megabytes=limit, scratch=scratch).hold

    assert chosen(megabytes, tmp_path) == chosen(megabytes, None) == "memory"
    assert chosen(0.99 * megabytes, tmp_path) == "map"
    assert chosen(0.99 * megabytes, None) == "chunks"
    assert TeacherCacheReader(cache, top_k=4, memory_megabytes=0.99 * megabytes).hold == "memory"
    with pytest.raises(CacheError, match="hold 'disk' is not one of"):
        TeacherCacheReader(cache, hold="disk")
    with pytest.raises(CacheError, match="a memory map needs a folder"):
        TeacherCacheReader(cache, hold="map")


def test_chunks_stay_within_the_limit_and_the_last_used_are_kept(
    cache: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[slice] = []
    whole = view_module.read_rows
    monkeypatch.setattr(
        "teacher_cache.store.row_backends.read_rows",
        lambda a, v, span: read.append(span) or whole(a, v, span),
    )
    view = View(8, 1.0, "bucket")
    chunk_bytes = view_module.row_bytes(plan.layout, view) * 1024
    chunks = ChunkRows(CacheArrays(cache), view, 2 * chunk_bytes)
    for row in (0, 1024, 0, 2048, 0, 1024):  # 1024 is the one that has to go
        chunks.rows(slice(row, row + 3))
        assert chunks.held_bytes <= 2 * chunk_bytes
    assert [span.start for span in read] == [0, 1024, 2048, 1024]
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
    assert asked["row/top_id"] == asked["row/top_logprob"] == 8  # one inner chunk of 16 columns out of three
    assert "row/lognorm" not in asked and "row/gold_logprob" not in asked
    TeacherCacheReader(cache, top_k=8).prepare()
    assert (asked["row/top_id"], asked["row/top_logprob"]) == (8, 40)  # their mass joins the tail
    assert asked["row/lognorm"] == asked["row/tail_logprob"] == 1


def mapped(cache: Path, scratch: Path, **changes: object) -> TeacherCacheReader:
    return TeacherCacheReader(cache, hold="map", scratch=scratch, **{"top_k": 8, **changes})


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


@pytest.mark.parametrize("hold", HELD)
def test_pickling_a_reader_takes_no_rows(cache: Path, plan: Plan, tmp_path: Path, hold: str) -> None:
    reader = TeacherCacheReader(cache, hold=hold, scratch=tmp_path)
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


@pytest.mark.parametrize("hold", HELD)
def test_ten_processes_read_at_once_and_get_the_same(
    cache: Path, plan: Plan, tmp_path: Path, hold: str, forkserver: multiprocessing.context.ForkServerContext
) -> None:
    """None of them prepared: under "map" all ten want to write it."""
    digests = [passage.digest for passage in plan.passages[::8]]
    alone = TeacherCacheReader(cache, top_k=6)
    expected = hashlib.sha256("".join(digest_of(alone.targets(d)) for d in digests).encode()).hexdigest()
    reader = TeacherCacheReader(cache, top_k=6, hold=hold, scratch=tmp_path, memory_megabytes=WITHOUT_MEMORY)
    answers = forkserver.Queue()
    processes = [forkserver.Process(target=_read_all, args=(reader, digests, answers)) for _ in range(10)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert len({pid for pid, _ in found}) == 10
    assert {whole for _, whole in found} == {expected}
    assert len(list(tmp_path.glob("*.map"))) == (hold == "map")
