"""How well an n-gram model foretells sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.language_model.ngram_model import END, START, UNKNOWN, NgramModel
from teacher_cache.common.perplexity import perplexity

_NOWHERE = -1


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Figures on sentences that a model never saw.

    perplexity : exp of the mean negative log probability of a token, sentences' ends counted
    tokens : how many     unknown : of them, words that the model does not know, in the mean too
    nats_per_word : of all tokens together, by spoken words: the same scale for words and all kinds of units
    """

    perplexity: float
    tokens: int
    unknown: int
    nats_per_word: float


def ngram_perplexity(
    model: NgramModel, sentences: Iterable[Sequence[str]], num_words: int
) -> Perplexity | None:
    """The figures of some sentences, each the model's words; None where there is no sentence.

    num_words : spoken words of the sentences
    """
    ids = {word: index for index, word in enumerate(model.words)}
    unknown = ids.get(UNKNOWN, _NOWHERE)
    stream = [
        token
        for sentence in sentences
        for token in (ids[START], *(ids.get(word, unknown) for word in sentence), ids[END])
    ]
    if not stream:
        return None
    tokens = np.array(stream)
    nats = -token_log_probs(model, tokens)[tokens != ids[START]]
    num_unknown = int((tokens == unknown).sum())
    total = float(nats.sum())
    return Perplexity(perplexity(total / len(nats)), len(nats), num_unknown, total / max(num_words, 1))


def token_log_probs(model: NgramModel, tokens: np.ndarray) -> np.ndarray:
    """Natural log-probability of each token after those before it in its sentence, float64 (T,).

    tokens : int64 (T,), word ids, each sentence from `<s>` on; what stands at `<s>` itself is of no use
    """
    start = model.words.index(START)
    starts_before = np.cumsum(tokens == start)
    found = model.orders[0].log_prob[tokens].astype(np.float64)
    entry = np.where(tokens >= 0, tokens, _NOWHERE)  # of the n-gram that ends at each token
    for length, order in enumerate(model.orders[1:], 2):
        history = np.full(len(tokens), _NOWHERE)
        history[1:] = entry[:-1]
        history[1:][starts_before[1:] != starts_before[:-1]] = _NOWHERE
        weights = np.where(history >= 0, model.orders[length - 2].backoff[history], 0.0)
        entry = _entries(order.context, order.word, history, tokens, len(model.words))
        found = np.where(entry >= 0, order.log_prob[entry] if len(order) else 0.0, found + weights)
    natural: np.ndarray = found * math.log(10)
    return natural


def _entries(
    context: np.ndarray, word: np.ndarray, history: np.ndarray, tokens: np.ndarray, num_words: int
) -> np.ndarray:
    """Which entry of one order each (history, token) is, -1 where it is none."""
    if not len(word):
        return np.full(len(tokens), _NOWHERE)
    key = context.astype(np.int64) * num_words + word
    by_key = np.argsort(key)
    wanted = history * num_words + tokens
    place = np.searchsorted(key, wanted, sorter=by_key).clip(max=len(key) - 1)
    is_there = (key[by_key[place]] == wanted) & (history >= 0)
    return np.where(is_there, by_key[place], _NOWHERE)
