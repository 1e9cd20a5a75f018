"""The teacher's rows equal the plainest reference: one copy per position, full logits, float64 sums."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import sentences
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_teachers import FAMILIES

from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.passages import Passage
from teacher_cache.store.rows import RowBlock
from teacher_cache.teacher.identity import identify_teacher
from teacher_cache.teacher.masked_teacher import MaskedTeacher
from teacher_cache.teacher.top_k import rank_logits

CONFIG = CacheConfig(top_k=8, temperatures=(1.0, 2.5))
TEXTS = [*sentences(12), "don't", "a", "ship's bread"]
PASSAGES = [Passage("", text, "") for text in TEXTS]


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def teacher(folder: Path) -> MaskedTeacher:
    return MaskedTeacher.load(folder)


@pytest.fixture(scope="module")
def bert(bert_folder: Path) -> MaskedTeacher:
    return MaskedTeacher.load(bert_folder)


def score(
    teacher: MaskedTeacher, passages: list[Passage], config: CacheConfig, batch_tokens: int
) -> RowBlock:
    encoded = teacher.tokenizer.encode(passages)
    wanted = np.ones(sum(passage.own_length for passage in encoded), dtype=bool)
    return teacher.score(encoded, wanted, config, batch_tokens)


def reference_logprobs(folder: Path, teacher: MaskedTeacher, config: CacheConfig) -> np.ndarray:
    """Float64 (P, V): the model's own forward pass, one padless copy per position."""
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    rows = []
    for passage in teacher.tokenizer.encode(PASSAGES):
        for piece, word in enumerate(passage.own_word):
            hidden = passage.own_word == word if config.masking == "whole_word" else [piece]
            ids = passage.ids.copy()
            ids[passage.own_start : passage.own_start + passage.own_length][hidden] = (
                teacher.tokenizer.mask_id
            )
            with torch.no_grad():
                logits = model(torch.from_numpy(ids)[None]).logits[0, passage.own_start + piece]
            rows.append(logits.double().log_softmax(-1).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("masking", ["token", "whole_word"])
def test_rows_equal_full_logits_at_one_copy_per_position(
    folder: Path, teacher: MaskedTeacher, masking: str
) -> None:
    config = dataclasses.replace(CONFIG, masking=masking)
    rows = score(teacher, PASSAGES, config, batch_tokens=64)
    logprobs = reference_logprobs(folder, teacher, config)
    gold = np.concatenate([passage.own_ids for passage in teacher.tokenizer.encode(PASSAGES)])
    np.testing.assert_array_equal(rows.gold_id, gold)
    np.testing.assert_allclose(rows.gold_logprob, logprobs[np.arange(len(gold)), gold], atol=1e-4)

    ranked = np.where(teacher.tokenizer.is_special, -np.inf, logprobs)
    best = np.argsort(-ranked, axis=1, kind="stable")[:, : CONFIG.top_k]
    best_logprobs = np.take_along_axis(logprobs, best, 1)
    # Float32 cannot order what lies closer than it resolves: there the values must agree, not the ids.
    np.testing.assert_allclose(rows.top_logprob, best_logprobs, atol=1e-4)
    apart = -np.diff(np.take_along_axis(ranked, np.argsort(-ranked, axis=1)[:, : CONFIG.top_k + 1], 1))
    is_clear = apart.min(axis=1) > 1e-4
    assert is_clear.mean() > 0.9
    np.testing.assert_array_equal(rows.top_id[is_clear], best[is_clear])

    is_top = np.zeros(logprobs.shape, dtype=bool)
    np.put_along_axis(is_top, rows.top_id, True, 1)
    for column, temperature in enumerate(CONFIG.temperatures):
        powers = np.exp(logprobs / temperature)
        np.testing.assert_allclose(rows.lognorm[:, column], np.log(powers.sum(1)), atol=1e-4)
        tail = np.log((powers * ~is_top).sum(1) / powers.sum(1))
        np.testing.assert_allclose(rows.tail_logprob[:, column], tail, atol=1e-3)


def test_batched_equals_one_at_a_time(teacher: MaskedTeacher) -> None:
    alone = score(teacher, PASSAGES, CONFIG, batch_tokens=1)
    batched = score(teacher, PASSAGES, CONFIG, batch_tokens=100_000)
    for part in dataclasses.fields(RowBlock):
        np.testing.assert_allclose(getattr(alone, part.name), getattr(batched, part.name), atol=1e-5)


def test_wanted_rows_equal_those_of_the_whole(teacher: MaskedTeacher) -> None:
    config = dataclasses.replace(CONFIG, masking="whole_word")
    encoded = teacher.tokenizer.encode(PASSAGES[-3:])
    whole = score(teacher, PASSAGES[-3:], config, batch_tokens=64)
    for edge in range(1, len(whole), 3):
        wanted = np.arange(len(whole)) < edge
        parts = [teacher.score(encoded, chosen, config, 64) for chosen in (wanted, ~wanted)]
        joined = RowBlock.concatenate(parts)
        np.testing.assert_array_equal(joined.gold_id, whole.gold_id)
        np.testing.assert_allclose(joined.gold_logprob, whole.gold_logprob, atol=1e-5)


def test_context_changes_the_labels_but_never_the_pieces_that_are_labelled(teacher: MaskedTeacher) -> None:
    alone, between = teacher.tokenizer.encode(
        [Passage("", "the old ship", ""), Passage("we see a", "the old ship", "on deep sea")]
    )
    assert alone.own_ids.tolist() == between.own_ids.tolist()
    assert alone.own_word.tolist() == between.own_word.tolist()
    assert [piece not in teacher.tokenizer.backend.all_special_ids for piece in alone.own_ids]
    assert teacher.tokenizer.backend.decode(between.own_ids).strip() == "the old ship"
    rows = score(teacher, [Passage("", "sea", ""), Passage("old", "sea", "the")], CONFIG, 64)
    half = len(rows) // 2
    assert not np.allclose(rows.gold_logprob[:half], rows.gold_logprob[half:], atol=1e-3)


def test_a_word_has_the_same_pieces_wherever_it_stands(teacher: MaskedTeacher) -> None:
    first, later = teacher.tokenizer.encode([Passage("", "flower", ""), Passage("", "a flower", "")])
    assert first.own_ids.tolist() == later.own_ids[later.own_word == 1].tolist()


def test_whole_words_are_those_of_the_text_not_of_the_tokenizer(bert: MaskedTeacher) -> None:
    (passage,) = bert.tokenizer.encode([Passage("", "don't see", "")])
    assert passage.own_word.tolist() == [0, 0, 0, 0, 0, 1]  # the tokenizer cuts at the apostrophe


def test_specials_and_unused_pieces_are_never_ranked(bert: MaskedTeacher) -> None:
    rows = score(bert, PASSAGES, dataclasses.replace(CONFIG, top_k=10_000), 256)
    assert (
        rows.top_id.shape[1] == int((~bert.tokenizer.is_special).sum()) == len(bert.tokenizer.vocabulary) - 6
    )
    assert not bert.tokenizer.is_special[rows.top_id].any()
    assert (np.exp(rows.tail_logprob[:, 0]) > 0).all()  # their mass stays in the normaliser


def test_an_unknown_gold_piece_is_kept(bert: MaskedTeacher) -> None:
    rows = score(bert, [Passage("", "sea 5", "")], CONFIG, 64)
    assert rows.gold_id[1] == bert.tokenizer.unknown_id
    assert np.isfinite(rows.gold_logprob).all()


@given(st.data())
@settings(max_examples=60)
def test_ties_go_to_the_smaller_id(data: st.DataObject) -> None:
    size = data.draw(st.integers(3, 80))
    top_k = data.draw(st.integers(1, size - 1))
    values = data.draw(st.lists(st.sampled_from([-1.0, 0.0, 2.0]), min_size=size, max_size=size))
    is_special = torch.zeros(size, dtype=torch.bool)
    is_special[data.draw(st.integers(0, size - 1))] = True
    rows = rank_logits(torch.tensor([values]), torch.tensor([0]), is_special, top_k, (1.0,))
    expected = sorted((-value, index) for index, value in enumerate(values) if not is_special[index])
    assert rows.top_id[0].tolist() == [index for _, index in expected[:top_k]]
    assert np.exp(rows.top_logprob[0]).sum() + np.exp(rows.tail_logprob[0, 0]) == pytest.approx(1, abs=1e-6)


def test_bfloat16_encoders_stay_near_and_project_in_float32(bert_folder: Path, bert: MaskedTeacher) -> None:
    half = MaskedTeacher.load(bert_folder, dtype="bfloat16")
    rows, exact = (score(teacher, PASSAGES, CONFIG, 256) for teacher in (half, bert))
    assert rows.top_logprob.dtype == np.float32
    assert np.abs(rows.gold_logprob - exact.gold_logprob).mean() < 0.2
    assert not np.array_equal(rows.gold_logprob, exact.gold_logprob)


def test_the_length_limit_is_the_one_that_the_identity_records(folder: Path, teacher: MaskedTeacher) -> None:
    from transformers import AutoModelForMaskedLM

    positions = AutoModelForMaskedLM.from_pretrained(folder).base_model.embeddings.position_embeddings
    unused = 0 if positions.padding_idx is None else positions.padding_idx + 1  # RoBERTa's begin behind it
    assert teacher.tokenizer.max_tokens == identify_teacher(folder).max_tokens == 64
    assert positions.num_embeddings - unused == 64
    pieces_per_word = teacher.tokenizer.encode([Passage("", "the", "")])[0].own_length
    longest = (teacher.tokenizer.max_tokens - 2) // pieces_per_word
    rows = score(teacher, [Passage("", " ".join(["the"] * longest), "")], CONFIG, 64)
    assert len(rows) == longest * pieces_per_word
    with pytest.raises(CacheError, match=r"passage 'the the the.*takes \d+ tokens, the teacher reads 64"):
        teacher.tokenizer.encode([Passage("", " ".join(["the"] * (longest + 1)), "")])
