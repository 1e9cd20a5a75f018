"""What nobody says has no probability where `ranked_pieces` is "speakable", and nothing else changes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from build_helpers import build_request, entries_of, quiet, texts
from fakes import WORDS, sentences, tiny_bert
from hypothesis import given, settings
from hypothesis import strategies as st
from independent_reader import at_temperature, read_cache
from tiny_teachers import tiny_roberta

from pipeline.normaliser import ALPHABET
from teacher_cache.build.recompute import recompute_cache
from teacher_cache.build.request import BuildJob
from teacher_cache.build.run import build_cache
from teacher_cache.config import BuildConfig, CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.passages import Passage, passages_of
from teacher_cache.store import read_manifest
from teacher_cache.store.manifest import Recipe
from teacher_cache.store.piece_policy import (
    SPECIAL_TOKEN_POLICY,
    settings_of_policy,
    shown_policy,
    special_token_policy,
)
from teacher_cache.store.rows import RowBlock
from teacher_cache.store.verify import verify_cache
from teacher_cache.teacher.masked_teacher import MaskedTeacher
from teacher_cache.teacher.speakable import SPOKEN_CHARACTERS, speakable_pieces
from teacher_cache.teacher.tokenizer import PassageTokenizer
from teacher_cache.teacher_training.vocabulary import make_tokenizer

UNSPOKEN = (".", ",", "7", "-", "café", "a.", "##.")
ALL = CacheConfig(top_k=12, temperatures=(1.0, 2.5))
SPEAKABLE = dataclasses.replace(ALL, ranked_pieces="speakable")
TEXTS = sentences(20)


def punctuated_bert(folder: Path) -> Path:
    """A tiny BERT that takes a full stop to be the likeliest piece almost everywhere."""
    from transformers import BertForMaskedLM

    tiny_bert(folder, words=(*WORDS, *UNSPOKEN))
    model = BertForMaskedLM.from_pretrained(folder)
    pieces = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    with torch.no_grad():
        model.cls.predictions.bias[[pieces.index(piece) for piece in UNSPOKEN]] += 9.0
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return punctuated_bert(tmp_path_factory.mktemp("punctuated"))


@pytest.fixture(scope="module")
def teacher(folder: Path) -> MaskedTeacher:
    return MaskedTeacher.load(folder)


def rows_of(teacher: MaskedTeacher, config: CacheConfig) -> RowBlock:
    encoded = teacher.tokenizer.encode([Passage("", text, "") for text in TEXTS], config.passage_end)
    return teacher.score(encoded, np.ones(int(encoded.own_length.sum()), dtype=bool), config, 512)


def is_unspoken(teacher: MaskedTeacher) -> np.ndarray:
    return np.array([piece in UNSPOKEN for piece in teacher.tokenizer.vocabulary])


def test_the_alphabet_is_the_normalisers() -> None:
    assert SPOKEN_CHARACTERS == ALPHABET


@settings(max_examples=40)
@given(st.lists(st.text(ALPHABET, min_size=1, max_size=9), min_size=1, max_size=5))
def test_what_a_transcript_holds_is_speakable_by_every_tokenizer(words: list[str]) -> None:
    for backend in backends():
        pieces = [piece for piece in range(len(backend)) if piece not in backend.all_special_ids]
        vocabulary = [str(piece) for piece in backend.convert_ids_to_tokens(range(len(backend)))]
        is_speakable = speakable_pieces(vocabulary, backend)
        ids = set(backend(" " + " ".join(words), add_special_tokens=False)["input_ids"])
        assert is_speakable[[piece for piece in pieces if piece in ids]].all()


_BACKENDS: list[Any] = []


def backends() -> list[Any]:
    """Tokenizers of every kind: WordPiece, whole words, byte-level BPE."""
    if not _BACKENDS:
        with TemporaryDirectory() as roberta:
            _BACKENDS.append(PassageTokenizer.load(tiny_roberta(Path(roberta))).backend)
        for kind in ("wordpiece", "words"):
            _BACKENDS.append(make_tokenizer(kind, 300, None, [*TEXTS, "don't stop: 7 ships, one crew."]))
    return _BACKENDS


def test_other_pieces_are_not_and_the_signs_are_those_of_the_tokenizer(teacher: MaskedTeacher) -> None:
    found = teacher.tokenizer
    unspoken = {
        piece for piece, spoken in zip(found.vocabulary, found.is_speakable, strict=True) if not spoken
    }
    special = {piece for piece, one in zip(found.vocabulary, found.is_special, strict=True) if one}
    assert unspoken == {*UNSPOKEN, *special}
    roberta, wordpiece, _ = backends()
    shown = ["Ġthe", "the", "Ġ", "Ġ.", "Ġ'", "##a", "The", "é", "Ċ"]
    assert speakable_pieces(shown, roberta).tolist() == [True, True, True, False, True, *[False] * 4]
    shown = ["the", "##a", "'", "##'", "##", "Ġa", "##.", "a1"]
    assert speakable_pieces(shown, wordpiece).tolist() == [True] * 4 + [False] * 4


def test_no_unspeakable_piece_is_ranked_and_the_others_have_what_a_softmax_over_them_has(
    teacher: MaskedTeacher,
) -> None:
    plain, spoken = rows_of(teacher, ALL), rows_of(teacher, SPEAKABLE)
    unspoken = is_unspoken(teacher)
    assert unspoken[plain.top_id].any(axis=1).mean() > 0.9  # or the test would say nothing
    assert not unspoken[spoken.top_id].any()
    np.testing.assert_array_equal(spoken.gold_id, plain.gold_id)
    whole = rows_of(teacher, dataclasses.replace(ALL, top_k=10_000))  # every piece that is not special
    logprob = np.full((len(whole), len(unspoken)), -np.inf)
    np.put_along_axis(logprob, whole.top_id, whole.top_logprob.astype(np.float64), 1)
    special_mass = np.exp(whole.tail_logprob[:, 0].astype(np.float64))
    left = np.exp(logprob[:, ~unspoken]).sum(1) + special_mass
    np.testing.assert_allclose(
        spoken.top_logprob,
        np.take_along_axis(logprob, spoken.top_id, 1) - np.log(left)[:, None],
        atol=1e-4,
    )
    np.testing.assert_allclose(spoken.gold_logprob, plain.gold_logprob - np.log(left), atol=1e-4)
    for column, temperature in enumerate(ALL.temperatures):
        shares = np.exp(spoken.top_logprob / temperature - spoken.lognorm[:, column, None])
        np.testing.assert_allclose(shares.sum(1) + np.exp(spoken.tail_logprob[:, column]), 1, atol=1e-4)


def test_both_policies_are_one_where_every_piece_can_be_said(bert_folder: Path) -> None:
    teacher = MaskedTeacher.load(bert_folder)
    plain, spoken = rows_of(teacher, ALL), rows_of(teacher, SPEAKABLE)
    for part in dataclasses.fields(RowBlock):
        np.testing.assert_array_equal(getattr(plain, part.name), getattr(spoken, part.name))


def test_a_full_stop_at_the_end_is_read_and_has_no_row(teacher: MaskedTeacher) -> None:
    plain, ended = rows_of(teacher, ALL), rows_of(teacher, dataclasses.replace(ALL, passage_end="full_stop"))
    np.testing.assert_array_equal(ended.gold_id, plain.gold_id)
    assert not np.allclose(ended.gold_logprob, plain.gold_logprob, atol=1e-3)
    (passage,) = teacher.tokenizer.encode([Passage("a", "old ship", "the")], "full_stop")
    pieces = [teacher.tokenizer.vocabulary[piece] for piece in passage.ids]
    assert pieces == ["[CLS]", "a", "old", "ship", "the", ".", "[SEP]"]
    assert passage.own_ids.tolist() == passage.ids[2:4].tolist()


@pytest.fixture(scope="module")
def cache(folder: Path, scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("caches")
    config = dataclasses.replace(SPEAKABLE, passage_end="full_stop", masking="whole_word")
    build = BuildConfig(rows_per_shard=1024, batch_tokens=300)
    return build_cache(build_request(folder, root, texts(40), config, build, scheduler=scheduler), quiet).path


def test_such_a_cache_is_verified_read_and_scored_again(
    cache: Path, folder: Path, teacher: MaskedTeacher
) -> None:
    assert verify_cache(cache) == []
    _, pieces, unranked, labels = read_cache(cache)
    assert {piece for piece, one in zip(pieces, unranked, strict=True) if one} >= set(UNSPOKEN)
    layout = read_manifest(cache).layout
    for found in labels.values():
        assert not unranked[found["top_id"]].any()
        for temperature in ALL.temperatures:
            top, tail = at_temperature(found, layout.temperatures, temperature, layout.top_k)
            np.testing.assert_allclose(np.exp(top).sum(1) + np.exp(tail), 1, atol=1e-3)
    report = recompute_cache(cache, folder, passages_of(entries_of(texts(40)), ALL), 1.0)
    assert report.faults == () and report.rows == layout.num_rows


def test_a_piece_that_nobody_says_in_a_transcript_is_refused_before_any_work(
    folder: Path, tmp_path: Path
) -> None:
    for config, told in ((SPEAKABLE, r"holds piece '\.', which is not speakable"), (ALL, "")):
        job = BuildJob.of(build_request(folder, tmp_path, ["the old ship", "see the ship ."], config))
        if not told:
            assert len(job.tokens) == 2
            continue
        with pytest.raises(CacheError, match=told) as caught:
            job.plan()
        assert "\n" not in str(caught.value) and "'see the ship.'" in str(caught.value)


def test_recipes_of_before_keep_their_words_and_each_policy_has_its_own() -> None:
    assert Recipe.__dataclass_fields__["special_tokens"].default == SPECIAL_TOKEN_POLICY
    assert SPECIAL_TOKEN_POLICY == (
        "left, text and right are one text within the tokenizer's own frame, every word behind a space; "
        "special and unused pieces are never ranked, their mass is in the tail"
    )
    configs = [
        CacheConfig(ranked_pieces=ranked, passage_end=end)
        for ranked in ("all", "speakable")
        for end in ("none", "full_stop")
    ]
    policies = [special_token_policy(config) for config in configs]
    assert policies[0] == SPECIAL_TOKEN_POLICY and len(set(policies)) == len(configs)
    for config, policy in zip(configs, policies, strict=True):
        assert settings_of_policy(policy) == (config.ranked_pieces, config.passage_end)
        assert shown_policy(policy) == (
            f"ranked_pieces {config.ranked_pieces}, passage_end {config.passage_end}"
        )
    with pytest.raises(CacheError, match="is none of this version's"):
        settings_of_policy("of a later version")
