"""Fault x place x reader: whatever is done to a cache, its labels are its own, or one line is."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from contracts import files_below
from forgery import as_version_0_1, edit, forge, forge_table, rewrite, swap
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_cache import Plan, make, three_shards, write

from teacher_cache.build.reuse import copy_rows, find_reusable
from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.store import TeacherCacheReader, read_manifest
from teacher_cache.store.arrays import CacheArrays
from teacher_cache.store.inspection import inspect_passages
from teacher_cache.store.layout import ROW_ARRAYS
from teacher_cache.store.memory_map import map_path
from teacher_cache.store.row_backends import BACKENDS
from teacher_cache.store.verify import verify_cache
from teacher_cache.store.writer import publish

PLAN = three_shards(CacheConfig(top_k=24, temperatures=(1.0, 2.0)))  # two column chunks
OTHER = three_shards(CacheConfig(top_k=24, temperatures=(1.0, 2.0)), seed=1)
PARTS = ("gold_ids", "top_ids", "top_logprobs", "tail_logprob")
TOP_K = 8
VERSIONS = ("now", "0.1")


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same cache as it is published now and as version 0.1 published it; no test may change them."""
    now = make(tmp_path_factory.mktemp("now"), PLAN)
    old = as_version_0_1(shutil.copytree(now, tmp_path_factory.mktemp("old") / now.name))
    return {"now": now, "0.1": old}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound cache of as many shards over other passages."""
    return make(tmp_path_factory.mktemp("other"), OTHER)


def opened(cache: Path, backend: str, scratch: Path, **view: object) -> TeacherCacheReader:
    given: dict = {"top_k": TOP_K, "backend": backend, "scratch": scratch, **view}
    return TeacherCacheReader(cache, **given)


def read_all(reader: TeacherCacheReader) -> list[bytes]:
    """Every label, as bytes."""
    reader.prepare()
    assert len(reader.vocabulary) == len(reader.is_special) == PLAN.layout.vocab_size
    targets = [reader.targets(passage.digest) for passage in PLAN.passages]
    return [getattr(target, part).tobytes() for target in targets for part in PARTS]


def shard_file(cache: Path, name: str, shard: int) -> Path:
    return next(
        file for file in (cache / name / "c" / str(shard), cache / name / f"c/{shard}/0") if file.is_file()
    )


def exchange(cache: Path, *names: str) -> None:
    for name in names:
        swap(shard_file(cache, name, 0), shard_file(cache, name, 1))


def exchange_arrays(cache: Path, one: str, two: str) -> None:
    for shard in range(3):
        swap(shard_file(cache, one, shard), shard_file(cache, two, shard))


def replace_file(path: Path, put: Callable[[Path], object]) -> None:
    content = path.read_bytes()
    path.unlink()
    put(path)
    path.with_name("kept-away").write_bytes(content)


def edit_metadata(cache: Path, name: str, change: Callable[[dict], object]) -> None:
    path = cache / name / "zarr.json"
    entry = json.loads(path.read_text())
    change(entry)
    path.write_text(json.dumps(entry))


def zeros_for_a_lost_shard(cache: Path) -> None:
    for name in ROW_ARRAYS:
        edit_metadata(cache, name, lambda entry: entry.update(fill_value=0))
        shard_file(cache, name, 1).unlink()


def at(place: object, value: float) -> Callable[[np.ndarray], object]:
    return lambda values: values.__setitem__(place, value)


def lower_all_but_the_first(steps: np.ndarray) -> None:
    steps[:, 1:] += 1


def end_behind(ends: np.ndarray) -> None:
    ends[-1] += 1


def shift(values: np.ndarray, by: int = 1) -> None:
    values[:] = np.roll(values, by, axis=0)


def inner_codecs(entry: dict) -> list[dict]:
    return entry["codecs"][0]["configuration"]["codecs"]


def consolidate(entry: dict) -> None:
    entry["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": {}}


# What is done to a cache whose receipts, tables' digests or zarr.json do not know of it.
CHANGED: dict[str, Callable[[Path], object]] = {
    **{f"shards of {name} exchanged": lambda cache, name=name: exchange(cache, name) for name in ROW_ARRAYS},
    "shards of every array exchanged": lambda cache: exchange(cache, *ROW_ARRAYS),
    "two arrays exchanged": lambda cache: exchange_arrays(cache, "row/lognorm", "row/tail_logprob"),
    "rows rewritten": lambda cache: rewrite(cache, "row/top_logprob", lower_all_but_the_first),
    "gold rolled": lambda cache: rewrite(cache, "row/gold_id", shift),
    "passages shifted": lambda cache: rewrite(cache, "passage/start", lambda v: np.add(v, 1, out=v)),
    "lengths rolled": lambda cache: rewrite(cache, "passage/length", shift),
    "letters changed": lambda cache: rewrite(cache, "vocabulary/utf8", at(0, ord("q"))),
    "ends moved": lambda cache: rewrite(cache, "vocabulary/end", lambda v: v.__setitem__(3, v[3] - 1)),
    "a piece called special": lambda cache: rewrite(cache, "vocabulary/is_special", at(9, 1)),
    "a shard lost": lambda cache: shard_file(cache, "row/top_id", 1).unlink(),
    "zeros for a lost shard": zeros_for_a_lost_shard,
    "zeros to fill with": lambda cache: edit_metadata(cache, "row/top_id", lambda m: m.update(fill_value=0)),
    "another dtype": lambda cache: edit_metadata(cache, "row/top_id", lambda m: m.update(data_type="int16")),
    "other chunks": lambda cache: edit_metadata(
        cache, "passage/length", lambda m: m["chunk_grid"]["configuration"].update(chunk_shape=[100])
    ),
    "a codec that unpickles": lambda cache: edit_metadata(
        cache, "row/gold_id", lambda m: inner_codecs(m).insert(0, {"name": "numcodecs.pickle"})
    ),
    "no checksum": lambda cache: edit_metadata(cache, "row/gold_id", lambda m: inner_codecs(m).pop()),
    "consolidated metadata": lambda cache: edit_metadata(cache, "", consolidate),
    "metadata that is no JSON": lambda cache: (cache / "row/gold_id/zarr.json").write_text("[" * 100_000),
    "metadata lost": lambda cache: (cache / "row/zarr.json").unlink(),
    "a FIFO for a shard": lambda cache: replace_file(shard_file(cache, "row/top_id", 1), os.mkfifo),
    "a FIFO for metadata": lambda cache: replace_file(cache / "row/top_id/zarr.json", os.mkfifo),
    "a link for a shard": lambda cache: replace_file(
        shard_file(cache, "row/top_id", 1), lambda path: path.symlink_to(path.with_name("kept-away"))
    ),
}  # fmt: skip


def special_candidate(ids: np.ndarray) -> None:
    ids[1500, 2] = 1  # of the special ones


def below_its_own(logprob: np.ndarray) -> None:
    logprob -= 0.01


# What is done to a cache whose receipts and manifest agree: only the laws of rows can tell.
FORGED: dict[str, Callable[[Path], object]] = {
    "a special candidate": lambda cache: forge(cache, {"row/top_id": special_candidate}),
    "gold rolled": lambda cache: forge(cache, {"row/gold_id": shift}),
    "gold contradicts": lambda cache: forge(cache, {"row/gold_logprob": below_its_own}),
    "a candidate twice": lambda cache: forge(cache, {"row/top_id": lambda v: v.__setitem__((9, 3), v[9, 4])}),
    "a piece of no vocabulary": lambda cache: forge(cache, {"row/top_id": at((9, 3), 90)}),
    "candidates that rise": lambda cache: forge(
        cache, {"row/top_logprob": lambda v: v.__setitem__((2000, 1), v[2000, 2] + 40)}
    ),
    "a tail too heavy": lambda cache: forge(cache, {"row/tail_logprob": at((40, 0), -0.01)}),
    "no number": lambda cache: forge(cache, {"row/tail_logprob": at((40, 0), np.inf)}),
    "passages that overlap": lambda cache: forge_table(cache, "passage/start", at(3, 0)),
    "pieces of no bytes": lambda cache: forge_table(cache, "vocabulary/end", end_behind),
    "letters of no text": lambda cache: forge_table(cache, "vocabulary/utf8", at(0, 255)),
    "special by halves": lambda cache: forge_table(cache, "vocabulary/is_special", at(0, 2)),
}  # fmt: skip

FAULTS = {**CHANGED, **{f"forged: {name}": plant for name, plant in FORGED.items()}}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("fault", FAULTS)
def test_every_reader_tells_a_fault_in_one_line_and_hands_out_nothing(
    caches: dict[str, Path], tmp_path: Path, fault: str, version: str
) -> None:
    cache = shutil.copytree(caches[version], tmp_path / caches[version].name)
    FAULTS[fault](cache)
    assert verify_cache(cache)
    for backend in BACKENDS:
        with pytest.raises(CacheError) as told:
            read_all(opened(cache, backend, tmp_path / "scratch"))
        assert "\n" not in str(told.value) and "cache verify" in str(told.value)
        assert not list((tmp_path / "scratch").glob("*.map"))


@pytest.mark.parametrize("fault", [*CHANGED, "forged: gold rolled", "forged: a special candidate"])
def test_rows_are_shown_and_copied_under_the_same_checks(
    caches: dict[str, Path], tmp_path: Path, fault: str
) -> None:
    cache = shutil.copytree(caches["now"], tmp_path / caches["now"].name)
    FAULTS[fault](cache)
    with pytest.raises(CacheError):
        inspect_passages(cache, {passage.text: passage for passage in PLAN.passages}, 3)
    with pytest.raises(CacheError):
        copy_rows(cache, PLAN.digests)
    said: list[str] = []
    found = find_reusable(tmp_path, PLAN.manifest.recipe, PLAN.digests, said.append)
    assert said and sum(len(held.digests) for held in found) < len(PLAN.passages)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_sound_cache_gives_the_same_labels_whatever_its_version(
    caches: dict[str, Path], tmp_path: Path, version: str
) -> None:
    assert verify_cache(caches[version]) == []
    before = files_below(caches[version])
    labels = {
        backend: read_all(opened(caches[version], backend, tmp_path, memory_megabytes=0.0))
        for backend in BACKENDS
    }
    assert (
        labels["memory"]
        == labels["map"]
        == labels["chunks"]
        == read_all(opened(caches["now"], "memory", tmp_path))
    )
    assert files_below(caches[version]) == before, "a published cache is never edited"


def test_another_cache_in_this_fingerprint_s_folder_is_refused(
    caches: dict[str, Path], other: Path, tmp_path: Path
) -> None:
    cache = shutil.copytree(other, tmp_path / caches["now"].name)
    for use in (verify_cache_raising, TeacherCacheReader, read_manifest):
        with pytest.raises(CacheError, match=f"holds another cache, {other.name}"):
            use(cache)
    shutil.move(cache, tmp_path / "any other name")
    assert verify_cache(tmp_path / "any other name") == []


def verify_cache_raising(cache: Path) -> None:
    for fault in verify_cache(cache):
        raise CacheError(fault)


@given(data=st.data())
@settings(max_examples=16, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_change_of_a_stored_value_ever_becomes_a_label(
    caches: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A view gives its own labels, where what it reads is untouched, or refuses."""
    version, backend = data.draw(st.sampled_from(VERSIONS)), data.draw(st.sampled_from(BACKENDS))
    view = {
        "top_k": data.draw(st.sampled_from([1, 16, 17, 24])),
        "tail": data.draw(st.sampled_from(["bucket", "renormalise"])),
    }
    name = data.draw(st.sampled_from([*ROW_ARRAYS, "passage/start", "passage/length", "passage/digest"]))
    folder = tmp_path_factory.mktemp("changed")
    cache = shutil.copytree(caches[version], folder / caches[version].name)

    def change(values: np.ndarray) -> None:
        place = tuple(data.draw(st.integers(0, size - 1)) for size in values.shape)
        raw = values[place].tobytes()
        at = data.draw(st.integers(0, len(raw) - 1))
        flipped = raw[:at] + bytes([raw[at] ^ data.draw(st.integers(1, 255))]) + raw[at + 1 :]
        values[place] = np.frombuffer(flipped, values.dtype)[0]

    rewrite(cache, name, change)
    try:
        found = read_all(opened(cache, backend, folder / "scratch", **view))
    except CacheError as error:
        assert "\n" not in str(error)
        return
    assert found == read_all(opened(caches["now"], "memory", folder / "sound", **view))


def test_metadata_of_another_hand_is_refused_where_the_manifest_vouches_for_it(
    caches: dict[str, Path], tmp_path: Path
) -> None:
    """A level of compression changes no label; only version 0.1, which noted none, must take any."""
    for version, cache in caches.items():
        copy = shutil.copytree(cache, tmp_path / version / cache.name)
        edit_metadata(copy, "row/gold_id", lambda m: inner_codecs(m)[1]["configuration"].update(clevel=3))
        if version == "0.1":
            assert verify_cache(copy) == [] and read_all(opened(copy, "memory", tmp_path))
            continue
        assert verify_cache(copy) == ["row/gold_id/zarr.json is not what the manifest vouches for"]
        with pytest.raises(CacheError, match=r"row/gold_id/zarr\.json is not what the manifest vouches for"):
            opened(copy, "memory", tmp_path).prepare()


def test_what_a_view_does_not_read_is_not_checked_and_not_missed(
    caches: dict[str, Path], tmp_path: Path
) -> None:
    cache = shutil.copytree(caches["now"], tmp_path / caches["now"].name)
    rewrite(cache, "row/top_id", lambda ids: ids[:, 20].__setitem__(slice(None), 5))
    narrow = opened(cache, "memory", tmp_path)
    assert read_all(narrow) == read_all(opened(caches["now"], "memory", tmp_path))
    with pytest.raises(CacheError, match="shard 0: row/top_id is not what its receipt vouches for"):
        opened(cache, "memory", tmp_path, top_k=24).prepare()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Columns read of row arrays since, by array."""
    found: dict[str, int] = {}
    whole = CacheArrays.read

    def counted(self: CacheArrays, name: str, selection: object = np.s_[:]) -> np.ndarray:
        values = whole(self, name, selection)
        if name.startswith("row/"):
            found[name] = max(found.get(name, 0), values.shape[1] if values.ndim == 2 else 1)
        return values

    monkeypatch.setattr(CacheArrays, "read", counted)
    return found


def test_a_cache_of_version_0_1_is_read_whole_once(
    caches: dict[str, Path], tmp_path: Path, asked: dict[str, int]
) -> None:
    cache = shutil.copytree(caches["0.1"], tmp_path / caches["0.1"].name)
    opened(cache, "memory", tmp_path / "scratch", tail="renormalise").prepare()
    assert asked["row/top_id"] == 24 and asked["row/tail_logprob"] == 2
    asked.clear()
    opened(cache, "memory", tmp_path / "scratch", tail="renormalise").prepare()
    assert asked["row/top_id"] == 16 and "row/tail_logprob" not in asked
    (note,) = (tmp_path / "scratch").glob("*.columns.json")
    other = json.loads(note.read_text())
    other["columns_sha256"][0]["row/gold_id"] = ["0" * 64]
    for damage in (note.read_text()[:-9], json.dumps(other), "[]"):
        note.write_text(damage)
        asked.clear()
        opened(cache, "memory", tmp_path / "scratch", tail="renormalise").prepare()
        assert asked["row/top_id"] == 24, "a damaged note is none"
    exchange(cache, *ROW_ARRAYS)
    with pytest.raises(CacheError, match="shard 0: row/gold_id is not what its receipt vouches for"):
        opened(cache, "memory", tmp_path / "scratch").prepare()


def test_a_note_belongs_to_one_manifest(
    caches: dict[str, Path], tmp_path: Path, asked: dict[str, int]
) -> None:
    cache = shutil.copytree(caches["0.1"], tmp_path / caches["0.1"].name)
    opened(cache, "memory", tmp_path / "scratch").prepare()
    edit(cache, lambda manifest: manifest["build"].update(built="again"))
    asked.clear()
    opened(cache, "memory", tmp_path / "scratch", tail="renormalise").prepare()
    assert asked["row/tail_logprob"] == 2


def test_a_worker_relies_on_the_process_that_prepared_its_reader(
    caches: dict[str, Path], tmp_path: Path, asked: dict[str, int]
) -> None:
    reader = TeacherCacheReader(caches["0.1"], top_k=TOP_K, backend="chunks")
    reader.prepare()
    sent = pickle.dumps(reader)
    asked.clear()
    worker = pickle.loads(sent)
    worker.targets(PLAN.passages[0].digest)
    assert asked["row/top_id"] == 16


def test_a_map_belongs_to_the_receipts_that_its_rows_were_held_to(
    caches: dict[str, Path], tmp_path: Path
) -> None:
    reader = opened(caches["now"], "map", tmp_path / "scratch")
    reader.prepare()
    path = map_path(tmp_path / "scratch", reader.fingerprint, reader.view)
    written = path.stat().st_ino
    cache = shutil.copytree(caches["now"], tmp_path / caches["now"].name)
    opened(cache, "map", tmp_path / "scratch").prepare()
    assert path.stat().st_ino == written
    edit(
        cache,
        lambda manifest: manifest["receipts"][0]["columns_sha256"]["row/gold_id"].__setitem__(0, "0" * 64),
    )
    with pytest.raises(CacheError, match="shard 0: row/gold_id is not what its receipt vouches for"):
        opened(cache, "map", tmp_path / "scratch").prepare()


def test_a_shard_that_changes_between_two_chunks_is_refused(caches: dict[str, Path], tmp_path: Path) -> None:
    plan: Plan = PLAN
    cache = shutil.copytree(caches["now"], tmp_path / caches["now"].name)
    reader = opened(cache, "chunks", tmp_path, memory_megabytes=0.0)
    reader.targets(plan.passages[0].digest)
    reader.targets(plan.passages[-1].digest)
    exchange(cache, "row/gold_id")
    with pytest.raises(CacheError, match="shard 0 changed while it was read"):
        reader.targets(plan.passages[0].digest)


def test_a_build_that_version_0_1_began_is_published_with_every_digest(tmp_path: Path) -> None:
    building = write(tmp_path, PLAN)
    for file in (building / "receipts").glob("*.json"):
        receipt = json.loads(file.read_text())
        del receipt["columns_sha256"]
        file.write_text(json.dumps(receipt))
    path = publish(building, tmp_path, PLAN.manifest)
    assert all(receipt.columns_sha256 for receipt in read_manifest(path).receipts)
    assert verify_cache(path) == []


def test_a_foreign_file_is_not_published(tmp_path: Path) -> None:
    building = write(tmp_path, PLAN)
    (building / "notes.txt").write_text("mine")
    with pytest.raises(CacheError, match=r"notes\.txt is no file of a cache"):
        publish(building, tmp_path, PLAN.manifest)
