"""Which masked copies make which rows: pure numpy, whatever the tokenizer and the model."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True, slots=True)
class MaskedCopies:
    """C masked copies, ordered by length, that hide H pieces between them.

    passage : int64 (C,), which passage is copied     length : int64 (C,), all its tokens
    copy : int64 (H,), ascending, which copy hides the piece
    piece : int64 (H,), which of the P pieces it is
    """

    passage: np.ndarray
    length: np.ndarray
    copy: np.ndarray
    piece: np.ndarray


def words_of_pieces(text: str, piece_starts: np.ndarray) -> np.ndarray:
    """The whitespace-delimited word of `text` that each piece belongs to, int64, counted from 0.

    piece_starts : the character at which each piece begins. A space belongs to the word behind it, so that
    byte-level pieces, which carry the space before their word, land in that word.
    """
    is_letter = np.array([not character.isspace() for character in text] + [False])
    begins = is_letter & ~np.concatenate([[False], is_letter[:-1]])
    word = np.cumsum(begins) - is_letter  # a space counts the words before it: the number of the next one
    last_word = max(int(begins.sum()) - 1, 0)
    clipped: np.ndarray = np.minimum(word[np.minimum(piece_starts, len(text))], last_word)
    return clipped


def masked_copies(
    passage: np.ndarray, word: np.ndarray, length: np.ndarray, wanted: np.ndarray, masking: str
) -> MaskedCopies:
    """The copies that the wanted pieces need, each once.

    Under "token" a copy hides one piece; under "whole_word" it hides every piece of a word, wanted or not,
    so that a shard which holds part of a word sees the copy that its neighbour sees.

    passage, word : int64 (P,), the passage of each piece and its word there; both ascend
    length : int64 (M,), tokens of each passage     wanted : bool (P,)
    """
    num_pieces = len(passage)
    if masking == "token":
        group = np.arange(num_pieces)
    else:
        changes = (np.diff(passage) != 0) | (np.diff(word) != 0)
        group = np.concatenate([[0], np.cumsum(changes)])[:num_pieces]
    is_needed = np.zeros(num_pieces, dtype=bool)
    is_needed[group[wanted]] = True  # by group; there are at most P
    piece = np.flatnonzero(is_needed[group])
    groups, first, copy = np.unique(group[piece], return_index=True, return_inverse=True)
    copied = passage[piece[first]]
    order = np.argsort(length[copied], kind="stable")
    rank = np.empty(len(groups), dtype=np.int64)
    rank[order] = np.arange(len(groups))
    by_copy = np.argsort(rank[copy], kind="stable")
    return MaskedCopies(copied[order], length[copied[order]], rank[copy][by_copy], piece[by_copy])


def batches_of_equal_length(length: np.ndarray, batch_tokens: int) -> list[slice]:
    """Cuts ascending lengths (C,) into runs of equal length whose tokens stay within `batch_tokens`.

    A copy longer than the budget makes a batch of its own. The cut depends on `length` alone.
    """
    starts = np.flatnonzero(np.diff(length, prepend=0)).tolist()  # a copy is never of length 0
    batches = []
    for start, stop in pairwise([*starts, len(length)]):
        size = max(1, batch_tokens // int(length[start]))
        batches += [slice(begin, min(begin + size, stop)) for begin in range(start, stop, size)]
    return batches
