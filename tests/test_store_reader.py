from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from forgery import rewrite
from independent_check import other_parts
from independent_reader import at_temperature, read_cache
from synthetic_cache import CONFIG, Plan, SyntheticTeacher, make, passages_named, plan_of, three_shards

from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.store import (
    TeacherCacheReader,
)
from teacher_cache.store.row_backends import BACKENDS
from teacher_cache.store.verify import verify_cache


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


def test_a_view_of_eight_equals_a_cache_built_with_eight(cache: Path, plan: Plan, tmp_path: Path) -> None:
    small = make(tmp_path, three_shards(replace(CONFIG, top_k=8)))
    for temperature in CONFIG.temperatures:
        view = TeacherCacheReader(cache, top_k=8, temperature=temperature)
        built = TeacherCacheReader(small, temperature=temperature)
        for passage in plan.passages:
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
    store = TeacherCacheReader(cache, top_k=5, tail=tail, backend="chunks")
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


def test_the_document_alone_suffices_to_hold_a_cache_to_its_manifest(cache: Path, tmp_path: Path) -> None:
    assert other_parts(cache) == []
    changed = shutil.copytree(cache, tmp_path / cache.name)
    rewrite(changed, "row/top_id", lambda ids: ids.__setitem__((1500, 20), 5))
    rewrite(changed, "passage/start", lambda start: start.__setitem__(3, 0))
    (changed / "row/lognorm/zarr.json").write_text((changed / "row/lognorm/zarr.json").read_text() + " ")
    assert other_parts(changed) == ["row/lognorm/zarr.json", "passage/start", (1, "row/top_id")]


@pytest.mark.parametrize("name", ["independent_reader", "independent_check"])
def test_the_independent_readers_import_nothing_of_ours(name: str) -> None:
    source = Path(__file__).with_name(f"{name}.py").read_text()
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


def test_what_a_reader_gave_may_be_changed_without_changing_the_cache(cache: Path, plan: Plan) -> None:
    reader, untouched = TeacherCacheReader(cache), TeacherCacheReader(cache)
    targets = reader.targets(plan.passages[0].digest)
    for part in (targets.gold_ids, targets.top_ids, targets.top_logprobs, targets.tail_logprob):
        part[:] = 1
    same_targets(reader, untouched, plan.passages[0].digest)


def test_a_worker_is_sent_settings_and_no_arrays(cache: Path, plan: Plan) -> None:
    reader = TeacherCacheReader(cache, top_k=7, temperature=2.0)
    reader.targets(plan.passages[0].digest)
    assert len(reader.vocabulary) == 90
    sent = pickle.dumps(reader)
    assert len(sent) < 10_000
    same_targets(reader, pickle.loads(sent), plan.passages[3].digest)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("damage", ["missing", "flipped", "truncated", "empty"])
@pytest.mark.parametrize("name", ["gold_id", "top_id", "top_logprob", "lognorm", "tail_logprob"])
def test_a_damaged_shard_is_one_line_and_never_a_label(
    cache: Path, plan: Plan, tmp_path: Path, name: str, damage: str, backend: str
) -> None:
    copy = shutil.copytree(cache, tmp_path / cache.name)
    place = copy / "row" / name / "c" / ("1" if name == "gold_id" else "1/0")
    content = bytearray(place.read_bytes())
    content[len(content) // 2] ^= 16  # inside the compressed rows: no header would notice
    {
        "missing": place.unlink,
        "flipped": lambda: place.write_bytes(content),
        "truncated": lambda: place.write_bytes(content[:-9]),
        "empty": lambda: place.write_bytes(b""),
    }[damage]()
    reader = TeacherCacheReader(copy, temperature=2.0, backend=backend, scratch=tmp_path / "scratch")
    with pytest.raises(CacheError, match=r"cache verify|never written") as caught:
        for passage in plan.passages[::10]:
            reader.targets(passage.digest)
    assert "\n" not in str(caught.value)


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
