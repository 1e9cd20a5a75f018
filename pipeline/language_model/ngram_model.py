"""A back-off n-gram model in memory: what an ARPA file says, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNKNOWN, START, END = "<unk>", "<s>", "</s>"


@dataclass(frozen=True, slots=True)
class NgramOrder:
    """The G n-grams of one length.

    context : int32 (G,), which entry of the order below all words but the last are; 0 for single words
    word : int32 (G,), the last word     log_prob : float32 (G,), log10 of its probability
    backoff : float32 (G,), log10 of the weight of shorter histories where this one is the history; 0 where
        nothing follows it
    """

    context: np.ndarray
    word: np.ndarray
    log_prob: np.ndarray
    backoff: np.ndarray

    def __len__(self) -> int:
        return len(self.word)


@dataclass(frozen=True, slots=True)
class NgramModel:
    """words : each once; of `orders[0]`, word ids ascend from 0     orders : shortest first"""

    words: tuple[str, ...]
    orders: tuple[NgramOrder, ...]

    @property
    def order(self) -> int:
        """The longest n-gram's length."""
        return len(self.orders)

    def word_ids(self, length: int, entries: np.ndarray) -> np.ndarray:
        """The words of some n-grams of one length, int32 (len(entries), length)."""
        found = np.empty((len(entries), length), dtype=np.int32)
        for place in range(length, 0, -1):
            order = self.orders[place - 1]
            found[:, place - 1] = order.word[entries]
            entries = order.context[entries]
        return found
