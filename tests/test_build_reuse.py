from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from build_helpers import build_request, texts
from synthetic_cache import CONFIG, Plan, make, passages_named, plan_of

from teacher_cache.build.request import BuildJob
from teacher_cache.build.reuse import copy_rows, find_reusable
from teacher_cache.errors import CacheError
from teacher_cache.store import read_manifest
from teacher_cache.store.rows import RowBlock, encode


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_copied_rows_encode_to_the_same_bytes(cache: Path, plan: Plan, order: str) -> None:
    chosen = np.arange(0, len(plan.passages), 3)
    if order == "shuffled":
        np.random.default_rng(0).shuffle(chosen)
    copied = encode(copy_rows(cache, plan.digests[chosen]), plan.layout)
    rows = [
        plan.teacher.rows(plan.passages[index], CONFIG.top_k, CONFIG.temperatures)
        for index in chosen.tolist()
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
        index
        for index, (first, end) in enumerate(zip(np.r_[0, start], start, strict=False))
        if end <= 1024 or first >= 2048
    ]
    assert np.array_equal(held.digests, plan.digests[sound])


def test_passages_of_two_caches_are_each_taken_once(cache: Path, tmp_path: Path) -> None:
    root = shutil.copytree(cache.parent, tmp_path / "root")
    second = passages_named(600)[100:500]
    make(root, plan_of(second, config=CONFIG))
    wanted = plan_of(passages_named(600), config=CONFIG)
    held = find_reusable(root, wanted.manifest.recipe, wanted.digests, print)
    taken = [digest.tobytes() for each in held for digest in each.digests]
    assert len(held) == 2
    assert len(set(taken)) == len(taken)
    assert set(taken) == {passage.digest for passage in (*passages_named(400), *second)}


def test_a_folder_that_holds_another_cache_ends_a_build_before_any_work(
    cache: Path, bert_folder: Path, tmp_path: Path
) -> None:
    job = BuildJob.of(build_request(bert_folder, tmp_path, texts(3)))
    shutil.copytree(cache, tmp_path / job.fingerprint)
    with pytest.raises(CacheError, match=f"holds another cache, {cache.name}"):
        job.covering_cache(print)
