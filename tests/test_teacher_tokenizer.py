"""Passages become tokens without the model: in one call or many, kept in few arrays, sent as they are."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from build_helpers import build_request, texts
from fakes import sentences

from teacher_cache.build.request import BuildJob
from teacher_cache.config import BuildConfig, CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.passages import Passage
from teacher_cache.teacher import masked_teacher, tokenizer
from teacher_cache.teacher.tokenizer import EncodedPassage, EncodedPassages, PassageTokenizer

PASSAGES = [Passage("the sea", text, "") for text in sentences(20)]


@pytest.fixture(scope="module")
def tokens(bert_folder: Path) -> EncodedPassages:
    return PassageTokenizer.load(bert_folder).encode(PASSAGES)


def equal(one: EncodedPassage, other: EncodedPassage) -> bool:
    spans = (one.own_start, one.own_length) == (other.own_start, other.own_length)
    return spans and np.array_equal(one.ids, other.ids) and np.array_equal(one.own_word, other.own_word)


def test_passages_come_back_one_by_one(tokens: EncodedPassages) -> None:
    assert len(tokens) == len(list(tokens)) == len(PASSAGES)
    for passage, encoded in zip(PASSAGES, tokens, strict=True):
        assert len(encoded.own_ids) == encoded.own_length == len(encoded.own_word)
        assert encoded.own_word[-1] == len(passage.text.split()) - 1
    assert tokens.length.tolist() == [len(encoded.ids) for encoded in tokens]
    assert tokens.own_length.tolist() == [encoded.own_length for encoded in tokens]
    assert equal(tokens[-1], tokens[len(tokens) - 1])
    with pytest.raises(IndexError):
        tokens[len(tokens)]


def test_some_of_them_are_the_same_in_any_order_and_over_any_way(tokens: EncodedPassages) -> None:
    order = np.random.default_rng(0).permutation(len(tokens))
    taken = tokens.take(order)
    assert all(equal(taken[index], tokens[number]) for index, number in enumerate(order.tolist()))
    halves = EncodedPassages.concatenate([tokens.take(np.arange(7)), tokens.take(np.arange(7, len(tokens)))])
    again = pickle.loads(pickle.dumps(EncodedPassages.of(list(tokens))))
    for other in (halves, again):
        assert all(equal(one, two) for one, two in zip(other, tokens, strict=True))
    nothing = tokens.take(np.array([], dtype=np.int64))
    assert len(nothing) == len(EncodedPassages.of([])) == len(EncodedPassages.concatenate([])) == 0


def test_calls_of_any_size_give_the_same_tokens(
    bert_folder: Path, tokens: EncodedPassages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "PASSAGES_PER_CALL", 3)
    found = PassageTokenizer.load(bert_folder).encode(PASSAGES)
    assert all(equal(one, two) for one, two in zip(found, tokens, strict=True))
    assert len(PassageTokenizer.load(bert_folder).encode([])) == 0


def test_the_driver_of_a_build_loads_no_weights_and_sends_every_shard_its_tokens(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(folder: Path) -> None:
        raise AssertionError("the driver loads the model")

    monkeypatch.setattr(masked_teacher, "_load_model", load)
    config, build = CacheConfig(top_k=8), BuildConfig(rows_per_shard=1024)
    job = BuildJob.of(build_request(bert_folder, tmp_path, texts(500), config, build))
    plan = job.plan()
    assert job.layout(plan).num_shards > 1
    for shard in range(job.layout(plan).num_shards):
        task = job.task(plan, shard)
        assert task.tokens.own_length.tolist() == task.lengths.tolist()
        first = int(np.flatnonzero((job.corpus.digests == task.digests[0]).all(axis=1))[0])
        assert equal(task.tokens[0], job.tokens[first])
        assert len(pickle.dumps(task)) < 30 * plan.rows_per_shard  # bytes a row


def test_a_folder_without_a_tokenizer_is_one_line(bert_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((bert_folder / "config.json").read_text())
    with pytest.raises(CacheError, match="tokenizer") as reported:
        PassageTokenizer.load(tmp_path)
    assert "\n" not in str(reported.value)
