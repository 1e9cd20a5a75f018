from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from independent_reader import at_temperature, read_cache
from synthetic_cache import Plan, SyntheticTeacher, make, passages_named, plan_of, write

from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.rows import encode
from teacher_cache.store import (
    CacheWriter,
    RowBlock,
    TeacherCacheReader,
    building_path,
    copy_rows,
    find_reusable,
    publish,
    read_manifest,
    write_name,
)
from teacher_cache.verify import verify_cache

CONFIG = CacheConfig(top_k=24, temperatures=(1.0, 2.0))
PASSAGES = passages_named(400)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(PASSAGES, config=CONFIG)


@pytest.fixture(scope="module")
def cache(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published cache of three shards that no test may change."""
    path = make(tmp_path_factory.mktemp("root"), plan)
    assert plan.layout.num_shards == 3
    return path


@pytest.mark.parametrize("temperature", CONFIG.temperatures)
@pytest.mark.parametrize("top_k", [1, 8, 16, 17, 24])
def test_labels_equal_the_full_distribution_in_float64(
    cache: Path, plan: Plan, temperature: float, top_k: int
) -> None:
    reader = TeacherCacheReader(cache, top_k=top_k, temperature=temperature)
    for passage in plan.passages[::7]:
        full = plan.teacher.logprobs(passage) / temperature
        full -= np.logaddexp.reduce(full, axis=1, keepdims=True)
        targets = reader.targets(passage.digest)
        kept = np.take_along_axis(full, targets.top_ids.astype(int), axis=1)
        np.testing.assert_allclose(targets.top_logprobs, kept, rtol=0, atol=2.6e-4)
        outside = full.copy()
        np.put_along_axis(outside, targets.top_ids.astype(int), -np.inf, axis=1)
        tail = np.logaddexp.reduce(outside, axis=1)
        np.testing.assert_allclose(targets.tail_logprob, tail, rtol=0, atol=2.6e-4)
        full[:, : plan.teacher.num_special] = -np.inf
        assert (kept.min(axis=1) >= np.sort(full, axis=1)[:, -top_k] - 1e-12).all()
        assert np.array_equal(targets.gold_ids, plan.teacher.gold(passage))
        assert [part.dtype.str for part in (targets.gold_ids, targets.top_ids)] == ["<i4", "<i4"]
        assert [part.dtype.str for part in (targets.top_logprobs, targets.tail_logprob)] == ["<f4", "<f4"]


def test_a_view_of_eight_equals_a_cache_built_with_eight(cache: Path, tmp_path: Path) -> None:
    small = make(tmp_path, plan_of(PASSAGES, config=replace(CONFIG, top_k=8)))
    for temperature in CONFIG.temperatures:
        view = TeacherCacheReader(cache, top_k=8, temperature=temperature)
        built = TeacherCacheReader(small, temperature=temperature)
        for passage in PASSAGES:
            one, other = view.targets(passage.digest), built.targets(passage.digest)
            assert np.array_equal(one.gold_ids, other.gold_ids)
            assert np.array_equal(one.top_ids, other.top_ids)
            assert np.array_equal(one.top_logprobs, other.top_logprobs)
            np.testing.assert_allclose(one.tail_logprob, other.tail_logprob, rtol=0, atol=2.5e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.7])
def test_renormalised_labels_take_any_temperature_and_sum_to_one(
    cache: Path, plan: Plan, temperature: float
) -> None:
    reader = TeacherCacheReader(cache, top_k=8, temperature=temperature, tail="renormalise")
    for passage in plan.passages[::20]:
        targets = reader.targets(passage.digest)
        kept = np.take_along_axis(plan.teacher.logprobs(passage), targets.top_ids.astype(int), axis=1)
        kept = kept / temperature - np.logaddexp.reduce(kept / temperature, axis=1, keepdims=True)
        np.testing.assert_allclose(targets.top_logprobs, kept, rtol=0, atol=6e-4 / min(1, temperature))
        np.testing.assert_allclose(np.exp(targets.top_logprobs).sum(axis=1), 1, rtol=1e-5)
        assert np.isneginf(targets.tail_logprob).all()


@pytest.mark.parametrize("tail", ["bucket", "renormalise"])
def test_labels_read_from_the_store_equal_those_in_memory(cache: Path, plan: Plan, tail: str) -> None:
    memory = TeacherCacheReader(cache, top_k=5, tail=tail)
    store = TeacherCacheReader(cache, top_k=5, tail=tail, memory=False)
    for passage in plan.passages[::40]:
        same_targets(memory, store, passage.digest)


def same_targets(one: TeacherCacheReader, other: TeacherCacheReader, digest: bytes) -> None:
    first, second = one.targets(digest), other.targets(digest)
    for name in ("gold_ids", "top_ids", "top_logprobs", "tail_logprob"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name


def test_a_reader_of_forty_lines_that_knows_only_the_document_reads_the_same(cache: Path, plan: Plan) -> None:
    manifest, pieces, special, labels = read_cache(cache)
    reader = TeacherCacheReader(cache, top_k=9, temperature=2.0)
    assert manifest["fingerprint"] == reader.fingerprint == cache.name
    assert pieces == reader.vocabulary
    assert np.array_equal(special, reader.is_special)
    assert labels.keys() == {passage.digest for passage in plan.passages}
    for digest, label in labels.items():
        targets = reader.targets(digest)
        logprobs, tail = at_temperature(label, list(manifest["layout"]["temperatures"]), 2.0, 9)
        assert np.array_equal(targets.gold_ids, label["gold_id"])
        assert np.array_equal(targets.top_ids, label["top_id"][:, :9])
        np.testing.assert_allclose(targets.top_logprobs, logprobs, rtol=0, atol=1e-5)
        np.testing.assert_allclose(targets.tail_logprob, tail, rtol=0, atol=1e-5)


def test_the_independent_reader_imports_nothing_of_ours() -> None:
    source = Path(__file__).with_name("independent_reader.py").read_text()
    assert not any(name in source for name in ("teacher_cache", "student", "pipeline", "synthetic"))
    assert len(source.splitlines()) <= 40


def test_an_absent_passage_is_an_error_that_names_it(cache: Path, plan: Plan) -> None:
    reader = TeacherCacheReader(cache)
    held = plan.passages[0].digest
    for absent in (bytes(16), b"\xff" * 16, held[:-1] + bytes([held[-1] ^ 1])):
        assert absent not in reader
        with pytest.raises(CacheError, match=f"no passage {absent.hex()}; label it with"):
            reader.targets(absent)
    assert all(passage.digest in reader for passage in plan.passages)
    assert len(reader) == len(plan.passages)


def test_required_utterances_are_named_where_they_are_absent(cache: Path, plan: Plan) -> None:
    reader = TeacherCacheReader(cache)
    held = {f"u{number}": passage.digest for number, passage in enumerate(plan.passages)}
    reader.require(held)
    reader.require({})
    absent = {f"x{number}": bytes([number] * 16) for number in range(5)}
    with pytest.raises(CacheError, match=r"no labels for x0, x1, x2 and 2 more of 405 utterances"):
        reader.require({**held, **absent})


@settings(max_examples=25, deadline=None)
@given(st.sets(st.binary(min_size=16, max_size=16), min_size=1, max_size=30), st.data())
def test_lookup_is_exact_for_any_bytes(keys: set[bytes], data: st.DataObject) -> None:
    # Zero bytes at the end matter: numpy strips them from fixed-length strings.
    keys |= {key[:15] + b"\x00" for key in keys}
    ordered = sorted(keys)
    reader = TeacherCacheReader.__new__(TeacherCacheReader)
    reader.__dict__.update(_digests=np.frombuffer(b"".join(ordered), np.uint8).reshape(-1, 16))
    reader.__dict__.update(_keys=reader._digests.view("S16")[:, 0])
    reader.manifest = replace(plan_of(PASSAGES[:1]).manifest)
    reader.__dict__["_count"] = len(ordered)
    other = data.draw(st.binary(min_size=16, max_size=16))
    assert [reader._place(key) for key in ordered] == list(range(len(ordered)))
    assert (reader._place(other) >= 0) == (other in keys)


def test_settings_that_the_cache_cannot_serve_are_refused(cache: Path) -> None:
    with pytest.raises(CacheError, match=r"temperature 3 is not stored .* \(1, 2 are\)"):
        TeacherCacheReader(cache, temperature=3.0)
    for top_k in (0, 25):
        with pytest.raises(CacheError, match=rf"top_k {top_k} is not in 1\.\.24"):
            TeacherCacheReader(cache, top_k=top_k)
    with pytest.raises(CacheError, match="tail 'drop' is not one of"):
        TeacherCacheReader(cache, tail="drop")
    with pytest.raises(CacheError, match="no manifest.json"):
        TeacherCacheReader(cache.parent)


def test_a_worker_is_sent_settings_and_no_arrays(cache: Path, plan: Plan) -> None:
    reader = TeacherCacheReader(cache, top_k=7, temperature=2.0)
    reader.targets(plan.passages[0].digest)
    assert len(reader.vocabulary) == 90
    sent = pickle.dumps(reader)
    assert len(sent) < 10_000
    same_targets(reader, pickle.loads(sent), plan.passages[3].digest)


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("damage", ["missing", "flipped", "truncated", "empty"])
@pytest.mark.parametrize("name", ["gold_id", "top_id", "top_logprob", "lognorm", "tail_logprob"])
def test_a_damaged_shard_is_one_line_and_never_a_label(
    cache: Path, plan: Plan, tmp_path: Path, name: str, damage: str, memory: bool
) -> None:
    copy = shutil.copytree(cache, tmp_path / cache.name)
    place = copy / "row" / name / "c" / ("1" if name == "gold_id" else "1/0")
    content = bytearray(place.read_bytes())
    content[7] ^= 16
    {
        "missing": place.unlink,
        "flipped": lambda: place.write_bytes(content),
        "truncated": lambda: place.write_bytes(content[:-9]),
        "empty": lambda: place.write_bytes(b""),
    }[damage]()
    reader = TeacherCacheReader(copy, temperature=2.0, memory=memory)
    with pytest.raises(CacheError, match=r"cache verify|never written") as caught:
        for passage in plan.passages:
            reader.targets(passage.digest)
    assert "\n" not in str(caught.value)


def test_the_writer_refuses_what_is_no_distribution_and_writes_nothing(plan: Plan, tmp_path: Path) -> None:
    writer = CacheWriter.open(write(tmp_path, plan, shards=()))
    rows = plan.rows.take(plan.layout.shard_rows(0))

    def spoilt(name: str, value: float) -> RowBlock:
        values = getattr(rows, name).copy()
        values[(5,) * values.ndim if values.shape[-1] > 5 or values.ndim == 1 else (5, 0)] = value
        return replace(rows, **{name: values})

    for name in ("gold_logprob", "top_logprob", "lognorm", "tail_logprob"):
        with pytest.raises(CacheError, match=f"{name} holds nan at row 5"):
            writer.write_shard(0, spoilt(name, np.nan))
    for block, said in (
        (spoilt("tail_logprob", 0.0), r"tail make 1\.\d+ at temperature 1 in row 5"),
        (spoilt("lognorm", 3.0), r"tail make 0\.\d+ at temperature 1 in row 5"),
        (spoilt("top_id", 90), "top_id holds 90, outside a vocabulary of 90"),
        (spoilt("top_id", int(rows.top_id[5, 4])), "top_id repeats a piece in row 5"),
        (spoilt("top_logprob", -0.001), "top_logprob rises along row 5"),
        (spoilt("gold_logprob", 0.5), "a probability above 1"),
        (rows.take(slice(1, None)), "1023 rows where the shard has 1024"),
        (replace(rows, top_logprob=rows.top_logprob[:, :-1]), "top_logprob has shape"),
    ):
        with pytest.raises(CacheError, match=said):
            writer.write_shard(0, block)
    assert writer.receipts() == {}
    assert not list((writer.building / "row").rglob("c/*"))


def test_a_build_is_resumed_by_its_receipts_and_published_when_whole(plan: Plan, tmp_path: Path) -> None:
    building = write(tmp_path, plan, shards=(0, 2))
    assert list(CacheWriter.open(building).receipts()) == [0, 2]
    with pytest.raises(CacheError, match=r"1 of 3 shards lack a receipt \(shard 1 first\)"):
        publish(building, tmp_path, plan.manifest)
    receipt = CacheWriter.open(building).write_shard(
        1, plan.rows.take(plan.layout.shard_rows(1)), seconds=2.5, device="cpu"
    )
    assert (receipt.rows, receipt.seconds, receipt.device) == (1024, 2.5, "cpu")
    kept = np.exp(plan.rows.take(plan.layout.shard_rows(1)).top_logprob.astype(float))
    assert receipt.mass_at == pytest.approx({str(k): kept[:, :k].sum() / 1024 for k in (1, 4, 8, 16)})
    path = publish(building, tmp_path, plan.manifest)
    assert not building.exists()
    assert read_manifest(path).receipts[1] == receipt
    assert verify_cache(path) == []


def test_two_builds_of_one_plan_are_equal_byte_for_byte(cache: Path, plan: Plan, tmp_path: Path) -> None:
    again = make(tmp_path, plan)
    files = sorted(path.relative_to(cache) for path in cache.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert [name for name in files if (cache / name).read_bytes() != (again / name).read_bytes()] == []


@pytest.mark.parametrize("damage", ["rows", "receipt", "recipe", "layout"])
def test_a_build_that_is_not_what_it_says_is_not_published(plan: Plan, tmp_path: Path, damage: str) -> None:
    building, manifest = write(tmp_path, plan), plan.manifest
    if damage == "rows":
        shutil.copy(building / "row/top_id/c/0/0", building / "row/top_id/c/1/0")
    elif damage == "receipt":
        (building / "receipts/1.json").write_text("{")
    elif damage == "recipe":
        manifest = replace(manifest, recipe=replace(manifest.recipe, masking="whole_word"))
    else:
        manifest = replace(manifest, layout=replace(manifest.layout, num_passages=399))
    with pytest.raises(CacheError):
        publish(building, tmp_path, manifest)
    assert not (tmp_path / plan.manifest.fingerprint).exists()


def test_a_published_cache_is_never_replaced(cache: Path, plan: Plan, tmp_path: Path) -> None:
    root = shutil.copytree(cache.parent, tmp_path / "root")
    before = (root / cache.name / "manifest.json").stat()
    again = publish(write(root, plan), root, replace(plan.manifest, build={"seconds": 9}))
    assert again == root / cache.name
    assert (again / "manifest.json").stat() == before
    assert not building_path(root, cache.name).exists()


KILLED_AT_NTH_RENAME = """
import os, pickle, signal, sys
from teacher_cache.store import publish
arguments, renames = pickle.load(open(sys.argv[1], "rb")), int(sys.argv[2])
def count(event, details):
    global renames
    if event == "os.rename":
        renames -= 1
        if renames < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
publish(*arguments)
"""


def test_a_killed_publication_leaves_no_cache_and_is_finished_by_the_next(plan: Plan, tmp_path: Path) -> None:
    building = write(tmp_path, plan)
    job = tmp_path / "job.pickle"
    job.write_bytes(pickle.dumps((building, tmp_path, plan.manifest)))
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    for renames in (0, 1):  # before the manifest has its name, and before the cache has
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_AT_NTH_RENAME, str(job), str(renames)], env=environment, check=False
        )
        assert killed.returncode == -signal.SIGKILL
        assert not (tmp_path / plan.manifest.fingerprint).exists()
        with pytest.raises(CacheError, match="no manifest.json"):
            TeacherCacheReader(tmp_path / plan.manifest.fingerprint)
    assert verify_cache(publish(building, tmp_path, plan.manifest)) == []


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_copied_rows_encode_to_the_same_bytes(cache: Path, plan: Plan, order: str) -> None:
    chosen = np.arange(0, len(plan.passages), 3)
    if order == "shuffled":
        np.random.default_rng(0).shuffle(chosen)
    copied = encode(copy_rows(cache, plan.digests[chosen]), plan.layout)
    rows = [
        plan.teacher.rows(plan.passages[place], CONFIG.top_k, CONFIG.temperatures)
        for place in chosen.tolist()
    ]
    wanted = encode(RowBlock.concatenate(rows), plan.layout)
    for name, values in wanted.items():
        assert copied[name].tobytes() == values.tobytes(), name
    with pytest.raises(CacheError, match="holds no passage " + "00" * 16):
        copy_rows(cache, np.zeros((1, 16), np.uint8))


def test_a_grown_build_copies_what_is_held_and_equals_a_fresh_one(cache: Path, tmp_path: Path) -> None:
    root = shutil.copytree(cache.parent, tmp_path / "root")
    grown = plan_of(passages_named(440), config=CONFIG)
    said: list[str] = []
    (held,) = find_reusable(root, grown.manifest.recipe, grown.digests, said.append)
    assert said == []
    assert len(held.digests) == 400
    lengths = {p.digest: len(p.text.split()) for p in grown.passages}
    assert held.lengths.tolist() == [lengths[digest.tobytes()] for digest in held.digests]
    copied = copy_rows(held.path, held.digests)
    assert len(copied) == held.lengths.sum()
    rows = {p.digest: grown.teacher.rows(p, CONFIG.top_k, CONFIG.temperatures) for p in grown.passages}
    ends = np.cumsum(held.lengths)
    for digest, start, end in zip(held.digests, ends - held.lengths, ends, strict=True):
        rows[digest.tobytes()] = copied.take(slice(start, end))
    joined = replace(grown, rows=RowBlock.concatenate([rows[p.digest] for p in grown.passages]))
    built, fresh = make(root, joined), make(tmp_path / "fresh", grown)
    receipts = [read_manifest(path).receipts for path in (built, fresh)]
    assert [[r.sha256 for r in each] for each in receipts][0] == [r.sha256 for r in receipts[1]]


def test_only_sound_rows_of_the_same_recipe_are_reused(cache: Path, plan: Plan, tmp_path: Path) -> None:
    root = shutil.copytree(cache.parent, tmp_path / "root")
    said: list[str] = []
    other = replace(plan.manifest.recipe, masking="whole_word")
    assert find_reusable(root, other, plan.digests, said.append) == []
    shutil.copy(root / cache.name / "row/top_id/c/0/0", root / cache.name / "row/top_id/c/1/0")
    (held,) = find_reusable(root, plan.manifest.recipe, plan.digests, said.append)
    assert len(said) == 1 and "shard 1: its rows are not those of its receipt" in said[0]
    start = np.cumsum([len(p.text.split()) for p in plan.passages])
    sound = [
        place
        for place, (first, end) in enumerate(zip(np.r_[0, start], start, strict=False))
        if end <= 1024 or first >= 2048
    ]
    assert np.array_equal(held.digests, plan.digests[sound])


def test_passages_of_two_caches_are_each_taken_once(cache: Path, tmp_path: Path) -> None:
    root = shutil.copytree(cache.parent, tmp_path / "root")
    make(root, plan_of(passages_named(600)[300:500], config=CONFIG))
    wanted = plan_of(passages_named(600), config=CONFIG)
    held = find_reusable(root, wanted.manifest.recipe, wanted.digests, print)
    assert len(held) == 2
    digests = np.concatenate([each.digests for each in held])
    assert len(np.unique(digests, axis=0)) == len(digests) == 500 or len(digests) > 400


@pytest.mark.parametrize("vocab_size", [70_000, 10])
def test_wide_and_tiny_vocabularies_are_exact(tmp_path: Path, vocab_size: int) -> None:
    teacher = SyntheticTeacher(vocab_size=vocab_size, num_special=0)
    plan = plan_of(passages_named(5), teacher, CacheConfig(top_k=min(64, vocab_size)))
    path = make(tmp_path, plan)
    reader = TeacherCacheReader(path)
    for passage in plan.passages:
        targets = reader.targets(passage.digest)
        kept = np.take_along_axis(teacher.logprobs(passage), targets.top_ids.astype(int), axis=1)
        np.testing.assert_allclose(targets.top_logprobs, kept, rtol=0, atol=2.6e-4)
        assert targets.top_ids.max() > 65_535 or vocab_size == 10
        assert np.isneginf(targets.tail_logprob).all() == (vocab_size == 10)


def test_a_teacher_so_sure_that_log_probabilities_saturate_is_stored_and_verified(tmp_path: Path) -> None:
    config = CacheConfig(top_k=24, temperatures=(0.5, 1.0, 2.0, 8.0))
    path = make(tmp_path, plan_of(passages_named(30), SyntheticTeacher(sharpness=40.0), config))
    assert verify_cache(path) == []


def test_a_name_leads_to_its_cache(cache: Path, tmp_path: Path) -> None:
    write_name(tmp_path, "demo", cache.name)
    assert (tmp_path / "names/demo").read_text() == cache.name + "\n"
    with pytest.raises(CacheError, match="choose a plain word"):
        write_name(tmp_path, "../demo", cache.name)
