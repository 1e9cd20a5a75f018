"""A build is one function of its passages: workers, kills, order and reuse change no byte of its arrays."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from build_helpers import build_request, entries_of, quiet, stored, texts

from teacher_cache.build.estimate import preview_build
from teacher_cache.build.plan import choose_rows_per_shard
from teacher_cache.build.request import BuildRequest
from teacher_cache.build.run import BuildResult, build_cache
from teacher_cache.config import BuildConfig, CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.passages import Passage, passages_of
from teacher_cache.store import TeacherCacheReader, resolve
from teacher_cache.store.layout import CHUNK_ROWS, MAX_ROWS_PER_SHARD
from teacher_cache.store.verify import verify_cache

TEXTS = texts(500)
BUILD = BuildConfig(rows_per_shard=CHUNK_ROWS, batch_tokens=1024)


@pytest.fixture
def request_for(bert_folder: Path, scheduler: str, tmp_path: Path) -> Callable[..., BuildRequest]:
    def make(texts: Sequence[str] = TEXTS, **changes: object) -> BuildRequest:
        config = CacheConfig(top_k=8, masking=str(changes.pop("masking", "token")))
        plain = build_request(bert_folder, tmp_path / "cache", texts, config, BUILD, scheduler=scheduler)
        return dataclasses.replace(plain, **changes)

    return make


@pytest.fixture(scope="module")
def reference(
    bert_folder: Path, scheduler: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[BuildRequest, BuildResult]:
    """One uninterrupted build of TEXTS that no test may change."""
    root, config = tmp_path_factory.mktemp("reference"), CacheConfig(top_k=8, masking="whole_word")
    request = build_request(bert_folder, root, TEXTS, config, BUILD, scheduler=scheduler)
    return request, build_cache(request)


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
        CacheError, match=r"^\S+: shard \d+: the teacher yields NaN or infinity for passage '\w+"
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
