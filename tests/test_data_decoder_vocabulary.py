"""What the decoders see of a cache: mass is moved, never lost, and nothing is trained on by mistake."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from student.config import ObjectiveConfig
from student.data.decoder_vocabulary import EOS_INDEX, NO_TARGET, DecoderVocabulary, build_vocabulary
from student.errors import StudentError
from teacher_cache.store import TargetsBatch, TeacherTargets

TEACHER_SIZE = 30


def targets_of(num_tokens: int, top_k: int = 5, seed: int = 0, tail: bool = True) -> TeacherTargets:
    """A real distribution over TEACHER_SIZE pieces at every position, cut to its top k."""
    random = np.random.default_rng(seed)
    logits = 2 * random.standard_normal((num_tokens, TEACHER_SIZE))
    logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    order = np.argsort(-logprobs, axis=1)
    top = np.take_along_axis(logprobs, order[:, :top_k], axis=1)
    rest = np.take_along_axis(logprobs, order[:, top_k:], axis=1)
    outside = np.logaddexp.reduce(rest, axis=1) if tail else np.full(num_tokens, -np.inf)
    if not tail:
        top = top - np.logaddexp.reduce(top, axis=1, keepdims=True)
    return TeacherTargets(
        gold_ids=random.integers(0, TEACHER_SIZE, num_tokens).astype(np.int32),
        top_ids=order[:, :top_k].astype(np.int32),
        top_logprobs=top.astype(np.float32),
        tail_logprob=outside.astype(np.float32),
    )


def batch_of(*targets: TeacherTargets) -> TargetsBatch:
    """As a reader gives several transcripts."""
    parts = [(t.gold_ids, t.top_ids, t.top_logprobs, t.tail_logprob) for t in targets]
    rows = TeacherTargets(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    return TargetsBatch(rows, np.array([len(t.gold_ids) for t in targets]))


PIECES = st.sets(st.integers(0, TEACHER_SIZE - 1), min_size=1).map(sorted)


@given(PIECES, st.integers(1, 6), st.integers(0, 5))
def test_under_bucket_every_piece_keeps_its_probability_and_the_rest_is_in_the_tail(
    pieces: list[int], num_tokens: int, seed: int
) -> None:
    target = targets_of(num_tokens, seed=seed)
    indices, logprobs, tail = DecoderVocabulary(pieces, TEACHER_SIZE).restrict(target, "bucket")
    assert np.exp(logprobs).sum(1) + np.exp(tail) == pytest.approx(np.ones(num_tokens), abs=1e-5)
    for row, column in np.ndindex(target.top_ids.shape):
        piece = int(target.top_ids[row, column])
        if piece in pieces:
            assert indices[row, column] == 1 + pieces.index(piece)
            assert logprobs[row, column] == target.top_logprobs[row, column]
        else:
            assert logprobs[row, column] == -np.inf


@given(PIECES, st.integers(0, 5))
def test_under_renormalise_the_candidates_that_remain_share_everything(pieces: list[int], seed: int) -> None:
    target = targets_of(4, seed=seed, tail=False)
    _, logprobs, tail = DecoderVocabulary(pieces, TEACHER_SIZE).restrict(target, "renormalise")
    any_known = np.isin(target.top_ids, pieces).any(axis=1)
    assert np.exp(logprobs).sum(1) == pytest.approx(any_known.astype(float), abs=1e-5)
    assert not np.isnan(logprobs).any() and np.isneginf(tail).all()


def test_the_vocabulary_is_the_transcripts_pieces_and_what_the_teacher_ranks_often_enough() -> None:
    targets = [targets_of(20, seed=seed) for seed in range(3)]
    gold = {int(piece) for target in targets for piece in target.gold_ids}
    ranked = np.concatenate([target.top_ids.ravel() for target in targets])
    often = {piece for piece in range(TEACHER_SIZE) if (ranked == piece).sum() >= 12}
    assert set(build_vocabulary(targets, TEACHER_SIZE, 12).piece_ids) == gold | often
    assert set(build_vocabulary(targets, TEACHER_SIZE, 10_000).piece_ids) == gold


def test_moved_mass_is_what_the_candidates_outside_hold() -> None:
    targets = [targets_of(7, seed=1), targets_of(2, seed=2)]
    vocabulary = DecoderVocabulary(range(0, TEACHER_SIZE, 2), TEACHER_SIZE)
    by_hand = [
        sum(np.exp(p) for piece, p in zip(ids, row, strict=True) if piece % 2)
        for target in targets
        for ids, row in zip(target.top_ids, target.top_logprobs, strict=True)
    ]
    assert vocabulary.moved_mass(targets) == pytest.approx(np.mean(by_hand), rel=1e-5)
    assert DecoderVocabulary(range(TEACHER_SIZE), TEACHER_SIZE).moved_mass(targets) == 0


def test_a_batch_begins_and_ends_with_eos_and_pads_what_is_shorter() -> None:
    long, short = targets_of(3, seed=1), targets_of(1, seed=2)
    vocabulary = DecoderVocabulary(range(TEACHER_SIZE), TEACHER_SIZE)
    batch = vocabulary.batch(batch_of(long, short), ObjectiveConfig())
    assert batch.piece_inputs[0].tolist() == [EOS_INDEX, *(long.gold_ids + 1)]
    assert batch.piece_targets[0].tolist() == [*(long.gold_ids + 1), EOS_INDEX]
    assert batch.piece_targets[1].tolist() == [short.gold_ids[0] + 1, EOS_INDEX, NO_TARGET, NO_TARGET]
    assert batch.token_lengths.tolist() == [3, 1]
    assert batch.teacher is not None
    assert batch.teacher.top_indices.shape == (2, 3, 5) and batch.teacher.top_indices.dtype == torch.int64
    assert batch.teacher.top_logprobs[1, 1:].isneginf().all()


@pytest.mark.parametrize("tail", ["bucket", "renormalise"])
def test_a_batch_is_its_transcripts_and_padding(tail: str) -> None:
    """Whatever stands beside it, a transcript has the same inputs, targets, teacher and spans."""
    targets = [targets_of(tokens, seed=tokens, tail=tail == "bucket") for tokens in (4, 1, 6, 3)]
    vocabulary, objective = DecoderVocabulary(range(3, 20), TEACHER_SIZE), ObjectiveConfig(tail=tail)
    random = np.random.default_rng(0)
    hidden = [random.random(len(target.gold_ids) + 1) < 0.5 for target in targets]
    spans = [random.integers(0, 9, (len(target.gold_ids) + 1, 2)) for target in targets]
    batch = vocabulary.batch(batch_of(*targets), objective, hidden, [*spans[:3], None])
    assert batch.teacher is not None and batch.unit_spans is not None
    for number, target in enumerate(targets):
        length = len(target.gold_ids)
        known = [1 + piece - 3 if 3 <= piece < 20 else None for piece in target.gold_ids.tolist()]
        heard = [EOS_INDEX, *(vocabulary.unknown_index if index is None else index for index in known)]
        heard = [
            vocabulary.unknown_index if hide else index
            for index, hide in zip(heard, hidden[number], strict=True)
        ]
        assert batch.piece_inputs[number].tolist() == [*heard, *[EOS_INDEX] * (6 - length)]
        asked = [*(NO_TARGET if index is None else index for index in known), EOS_INDEX]
        assert batch.piece_targets[number].tolist() == [*asked, *[NO_TARGET] * (6 - length)]
        indices, logprobs, tails = vocabulary.restrict(target, tail)
        assert batch.teacher.top_indices[number, :length].tolist() == indices.tolist()
        assert batch.teacher.top_logprobs[number, :length].tolist() == logprobs.tolist()
        assert batch.teacher.tail_logprob[number, :length].tolist() == tails.tolist()
        assert batch.teacher.top_logprobs[number, length:].isneginf().all()
        assert batch.teacher.tail_logprob[number, length:].isneginf().all()
        own = spans[number].tolist() if number < 3 else [[0, 0]] * (length + 1)
        assert batch.unit_spans[number].tolist() == [*own, *[[0, 0]] * (6 - length)]
    assert batch.token_lengths.tolist() == [4, 1, 6, 3]


def test_a_piece_that_no_decoder_knows_is_heard_as_unknown_and_never_a_target() -> None:
    target = targets_of(2)
    vocabulary = DecoderVocabulary([int(target.gold_ids[0])], TEACHER_SIZE)
    batch = vocabulary.batch(batch_of(target), ObjectiveConfig())
    assert vocabulary.num_outputs == 2
    assert batch.piece_inputs.tolist() == [[EOS_INDEX, 1, vocabulary.unknown_index]]
    assert batch.piece_targets.tolist() == [[1, NO_TARGET, EOS_INDEX]]


def test_hard_labels_alone_read_no_teacher() -> None:
    vocabulary = DecoderVocabulary(range(TEACHER_SIZE), TEACHER_SIZE)
    assert vocabulary.batch(batch_of(targets_of(2)), ObjectiveConfig(distillation_weight=0)).teacher is None


def test_a_vocabulary_without_pieces_is_an_error() -> None:
    with pytest.raises(StudentError, match="train manifest"):
        build_vocabulary([], TEACHER_SIZE, 1)
