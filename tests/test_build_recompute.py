"""Scoring a sample again finds labels that are not the teacher's, however well their checksums agree."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from build_helpers import build_request, entries_of, quiet, texts
from fakes import tiny_bert
from forgery import forge

from teacher_cache.build.recompute import CONTROL_FACTOR, STATED_ERROR, recompute_cache, row_errors
from teacher_cache.build.reuse import copy_rows
from teacher_cache.build.run import build_cache
from teacher_cache.config import BuildConfig, CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.passages import Passage, passages_of
from teacher_cache.store import read_manifest
from teacher_cache.store.layout import ROW_ARRAYS
from teacher_cache.store.rows import RowBlock, encode
from teacher_cache.store.verify import verify_cache
from teacher_cache.teacher.masked_teacher import MaskedTeacher

TEXTS = texts(60)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def cache(
    request: pytest.FixtureRequest,
    bert_folder: Path,
    scheduler: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A real build that no test may change."""
    job = build_request(
        bert_folder,
        tmp_path_factory.mktemp(request.param),
        TEXTS,
        CacheConfig(top_k=8, masking="whole_word", dtype=request.param),
        BuildConfig(rows_per_shard=1024, batch_tokens=300),
        scheduler=scheduler,
    )
    return build_cache(job, quiet).path


def passages() -> list[Passage]:
    return passages_of(entries_of(TEXTS), CacheConfig())


def change_rows(path: Path, change: Callable[[RowBlock], RowBlock]) -> None:
    """Change rows as a writer with another teacher would: every checksum and receipt agrees."""
    manifest = read_manifest(path)
    digests = zarr.open_group(path, mode="r")["passage/digest"][:]
    stored = encode(change(copy_rows(path, digests)), manifest.layout)
    forge(
        path,
        {name: lambda values, name=name: np.copyto(values, stored[name]) for name in ROW_ARRAYS},
    )


def test_a_sound_cache_is_found_sound_within_the_stated_error(cache: Path, bert_folder: Path) -> None:
    report = recompute_cache(cache, bert_folder, passages(), 1.0)
    assert report.faults == ()
    assert (report.passages, report.rows) == (len(TEXTS), read_manifest(cache).layout.num_rows)
    assert report.largest_error <= report.allowed
    assert report.allowed == max(STATED_ERROR, CONTROL_FACTOR * report.control)
    assert report.allowed < 0.5
    if read_manifest(cache).recipe.dtype == "float32":
        assert report.allowed == STATED_ERROR


def test_a_sample_is_a_share_of_what_is_held_and_a_seed_names_it(cache: Path, bert_folder: Path) -> None:
    strangers = [Passage("", "a stranger's text", "")] * 50
    report = recompute_cache(cache, bert_folder, [*strangers, *passages(), *passages()], 0.1, seed=3)
    assert report.passages == 6
    assert report == recompute_cache(cache, bert_folder, passages(), 0.1, seed=3)
    assert recompute_cache(cache, bert_folder, passages(), 1e-9).passages == 1


def test_one_altered_label_that_every_checksum_vouches_for_is_found(
    cache: Path, bert_folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(cache, tmp_path / cache.name)

    def shift(rows: RowBlock) -> RowBlock:
        is_ranked = (rows.top_id == rows.gold_id[:, None]).any(axis=1)
        gold = rows.gold_logprob.copy()
        gold[np.flatnonzero(~is_ranked)[7]] -= 1.0  # of a candidate the laws would tell
        return dataclasses.replace(rows, gold_logprob=gold)

    change_rows(copy, shift)
    assert verify_cache(copy) == []
    (fault,) = recompute_cache(copy, bert_folder, passages(), 1.0).faults
    assert "off by 1." in fault and "\n" not in fault


def test_a_machine_that_rounds_otherwise_made_a_sound_cache(
    cache: Path, bert_folder: Path, tmp_path: Path
) -> None:
    """A machine that keeps every sum in float32 is as far from bfloat16 as any sound one can be."""
    copy = shutil.copytree(cache, tmp_path / cache.name)
    teacher = MaskedTeacher.load(bert_folder, "float32")
    encoded = teacher.tokenizer.encode(sorted(passages(), key=lambda passage: passage.digest))
    wanted = np.ones(sum(passage.own_length for passage in encoded), dtype=bool)
    config = CacheConfig(top_k=8, masking="whole_word")
    change_rows(copy, lambda rows: teacher.score(encoded, wanted, config, 512))
    report = recompute_cache(copy, bert_folder, passages(), 1.0)
    assert report.faults == ()
    if read_manifest(cache).recipe.dtype == "bfloat16":
        assert report.largest_error > STATED_ERROR  # else it showed nothing
        assert report.largest_error == pytest.approx(report.control, abs=STATED_ERROR)


def test_rows_of_other_passages_are_found(cache: Path, bert_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(cache, tmp_path / cache.name)
    change_rows(copy, lambda rows: rows.take(np.arange(len(rows))[::-1]))
    assert verify_cache(copy) == []
    faults = recompute_cache(copy, bert_folder, passages(), 1.0).faults
    assert faults[-1].startswith("and ") and faults[-1].endswith(f"more of {len(TEXTS)} passages")


def test_a_candidate_of_the_same_probability_in_another_place_is_no_error() -> None:
    zeros = np.zeros((1, 1), np.float32)
    logprobs = np.log(np.array([[0.5, 0.2, 0.2]], np.float32))
    gold = np.array([4]), np.array([-1.0], np.float32)
    one = RowBlock(*gold, np.array([[4, 5, 6]]), logprobs, zeros, zeros)
    tied = dataclasses.replace(one, top_id=np.array([[4, 6, 5]]))
    cut = dataclasses.replace(one, top_id=np.array([[4, 5, 7]]))  # the tie went on beyond the last column
    moved = dataclasses.replace(one, top_id=np.array([[5, 4, 6]]))
    assert row_errors(one, tied) == row_errors(one, cut) == 0
    assert row_errors(one, moved) == pytest.approx(np.log(0.5 / 0.2), abs=1e-6)


def test_what_cannot_be_compared_is_refused(cache: Path, bert_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"not the teacher that labelled .* \(other model\.safetensors"):
        recompute_cache(cache, tiny_bert(tmp_path / "other", seed=5), passages(), 1.0)
    with pytest.raises(CacheError, match="holds none of the 1 passages"):
        recompute_cache(cache, bert_folder, [Passage("", "a stranger's", "")], 1.0)
    for fraction in (0.0, 1.5):
        with pytest.raises(CacheError, match="is not above 0 and at most 1"):
            recompute_cache(cache, bert_folder, passages(), fraction)
