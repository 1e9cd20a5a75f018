"""Masked copies: every wanted piece once, every word whole, every batch of one length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacher_cache.teacher.masking import batches_of_equal_length, masked_copies, words_of_pieces

words = st.lists(st.text("abc'", min_size=1, max_size=4), min_size=1, max_size=8)
# Per passage: the number of pieces of each of its words.
passages = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=5), min_size=1, max_size=5)


def laid_out(pieces_per_word: list[list[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    passage = np.concatenate([np.full(sum(words), index) for index, words in enumerate(pieces_per_word)])
    word = np.concatenate([np.repeat(np.arange(len(words)), words) for words in pieces_per_word])
    length = np.array([sum(words) + 2 for words in pieces_per_word])
    return passage, word, length


@given(words, st.integers(0, 2))
def test_every_character_belongs_to_the_word_that_whitespace_makes(words: list[str], leading: int) -> None:
    text = " " * leading + " ".join(words)
    expected = [index for index, word in enumerate(words) for _ in word]
    letters = np.array([position for position, character in enumerate(text) if character != " "])
    assert words_of_pieces(text, letters).tolist() == expected


def test_a_piece_that_begins_with_the_space_belongs_to_the_word_behind_it() -> None:
    assert words_of_pieces(" don't see", np.array([0, 1, 4, 6, 7])).tolist() == [0, 0, 0, 1, 1]
    assert words_of_pieces("see ", np.array([3, 4])).tolist() == [0, 0]  # nothing behind it: the last word


@given(passages, st.data(), st.sampled_from(["token", "whole_word"]))
def test_copies_hide_what_the_policy_says_and_serve_every_wanted_piece_once(
    pieces_per_word: list[list[int]], data: st.DataObject, masking: str
) -> None:
    passage, word, length = laid_out(pieces_per_word)
    wanted = np.array(data.draw(st.lists(st.booleans(), min_size=len(word), max_size=len(word))))
    copies = masked_copies(passage, word, length, wanted, masking)

    together = list(zip(passage.tolist(), word.tolist(), strict=True))
    if masking == "token":
        expected = {(piece,) for piece in np.flatnonzero(wanted)}
    else:
        chosen = {together[piece] for piece in np.flatnonzero(wanted)}
        expected = {tuple(p for p, group in enumerate(together) if group == key) for key in chosen}
    hidden = [tuple(copies.piece[copies.copy == copy].tolist()) for copy in range(len(copies.passage))]
    assert set(hidden) == expected
    assert len(hidden) == len(expected)
    for copy, pieces in enumerate(hidden):
        assert set(passage[list(pieces)]) == {copies.passage[copy]}
    np.testing.assert_array_equal(copies.length, length[copies.passage])
    assert (np.diff(copies.length) >= 0).all()
    assert (np.diff(copies.copy) >= 0).all()


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 100))
def test_batches_take_every_copy_once_at_one_length_within_the_budget(
    lengths: list[int], batch_tokens: int
) -> None:
    length = np.sort(np.array(lengths, dtype=np.int64))
    batches = batches_of_equal_length(length, batch_tokens)
    assert [copy for batch in batches for copy in range(batch.start, batch.stop)] == list(range(len(length)))
    for batch in batches:
        assert len(set(length[batch])) == 1
        assert batch.stop - batch.start == 1 or length[batch].sum() <= batch_tokens


@pytest.mark.parametrize("edge", range(8))
def test_a_word_cut_by_a_shard_edge_is_hidden_whole_on_both_sides(edge: int) -> None:
    passage, word, length = laid_out([[3, 1], [2, 2]])
    left = np.arange(len(word)) < edge
    seen = set()
    for wanted in (left, ~left):
        copies = masked_copies(passage, word, length, wanted, "whole_word")
        served = {
            (int(piece), tuple(copies.piece[copies.copy == copy]))
            for copy, piece in zip(copies.copy, copies.piece, strict=True)
            if wanted[piece]
        }
        assert not seen & served
        seen |= served
    whole = masked_copies(passage, word, length, np.ones(len(word), dtype=bool), "whole_word")
    assert seen == {
        (int(piece), tuple(whole.piece[whole.copy == copy]))
        for copy, piece in zip(whole.copy, whole.piece, strict=True)
    }
