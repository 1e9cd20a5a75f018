"""Interpolated modified Kneser-Ney as KenLM's lmplz estimates it (Heafield et al. 2013, ACL, section 3).

Chen and Goodman 1998 ("An empirical study of smoothing techniques", section 3) name the parts: adjusted
counts, three discounts an order from counts of counts, and shorter n-grams mixed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import PipelineError
from pipeline.language_model.ngram_counts import (
    START_ID,
    Corpus,
    CountedOrder,
    corpus_of,
    counted_orders,
)
from pipeline.language_model.ngram_model import NgramModel, NgramOrder
from teacher_cache.common.progress import progress

LONGEST = 10
FALLBACK = (0.5, 1.0, 1.5)  # lmplz --discount_fallback
_NEVER = -99.0  # what ARPA files write for log10 of 0


@dataclass(frozen=True, slots=True)
class Discounts:
    """What is taken off a count of 1, 2, and 3 or more, in one order.

    is_fallback : the counts of counts gave none, for one is 0 or a discount would leave its range
    """

    amounts: tuple[float, float, float]
    is_fallback: bool


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimated model. discounts : by order, shortest first"""

    model: NgramModel
    discounts: tuple[Discounts, ...]


def estimate_ngrams(
    sentences: Iterable[Sequence[str]], order: int, vocabulary: Iterable[str] = ()
) -> Estimate:
    """The model of `order` words of these sentences, unpruned.

    vocabulary : words that the model shall know though they may not occur; each then has what `<unk>` has
    Raises PipelineError for no sentence, and for an order that is not 2..10.
    """
    if not 2 <= order <= LONGEST:
        raise PipelineError(f"order {order} must be 2 to {LONGEST}; change it under [language_model]")
    corpus = corpus_of(sentences, vocabulary)
    with progress("counting n-grams", total=order, unit="orders") as advance:
        counted = []
        for found in counted_orders(corpus, order):
            counted.append(found)
            advance()
        advance()
    adjusted = _adjusted_counts(corpus, counted)
    actual = [np.bincount(corpus.stream, minlength=len(corpus.words)), *(found.count for found in counted)]
    discounts = [
        _discounts(statistics) for statistics in _counts_of_counts(corpus, counted, adjusted, actual)
    ]
    return Estimate(_interpolated(corpus, counted, adjusted, discounts), tuple(discounts))


def _adjusted_counts(corpus: Corpus, counted: Sequence[CountedOrder]) -> list[np.ndarray]:
    """int64 (G,) of each order: how many different words stand before an n-gram.

    Of what begins with `<s>`, and of the longest n-grams, nothing can: they keep their counts.
    """
    adjusted = [np.bincount(counted[0].suffix, minlength=len(corpus.words))]
    for found, longer in zip(counted, counted[1:], strict=False):
        continuations = np.bincount(longer.suffix, minlength=len(found.last))
        adjusted.append(np.where(found.first == START_ID, found.count, continuations))
    return [*adjusted, counted[-1].count]


def _counts_of_counts(
    corpus: Corpus,
    counted: Sequence[CountedOrder],
    adjusted: Sequence[np.ndarray],
    actual: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """int64 (5,) of each order: how many n-grams have an adjusted count of 0, 1, 2, 3, 4.

    lmplz takes an order's very last n-gram (adjust_counts.cc, end of AdjustCounts::Run) at its actual
    count. So do we: in a small text one n-gram moves the discounts by more than 1e-5.
    """
    statistics = [np.bincount(counts[counts < 5], minlength=5) for counts in adjusted]
    last = int(corpus.stream.max())
    for index, counts in enumerate(adjusted[:-1]):
        if index:
            found = counted[index - 1]
            # Sorted by suffix, the last entry ends in the last entry of the order below, unless that one
            # begins a sentence: then nothing longer is under way when lmplz stops.
            begins_sentence = index > 1 and counted[index - 2].first[last] == START_ID
            if begins_sentence or not len(found.last):
                break
            last = len(found.last) - 1
        for change, count in ((-1, counts[last]), (1, actual[index][last])):
            if count < 5:
                statistics[index][count] += change
    return statistics


def _discounts(statistics: np.ndarray) -> Discounts:
    """Chen and Goodman's equation 26, in single precision as lmplz has it."""
    single = np.float32
    if (statistics[1:4] == 0).any():
        return Discounts(FALLBACK, True)
    share = single(statistics[1]) / single(float(statistics[1]) + 2.0 * float(statistics[2]))
    amounts = [
        float(
            single(count)
            - single(count + 1) * share * single(statistics[count + 1]) / single(statistics[count])
        )
        for count in (1, 2, 3)
    ]
    if any(not 0 <= amount <= count for count, amount in enumerate(amounts, 1)):
        return Discounts(FALLBACK, True)
    return Discounts((amounts[0], amounts[1], amounts[2]), False)


def _interpolated(
    corpus: Corpus,
    counted: Sequence[CountedOrder],
    adjusted: Sequence[np.ndarray],
    discounts: Sequence[Discounts],
) -> NgramModel:
    num_words = len(corpus.words)
    no_context = np.zeros(num_words, dtype=np.int32)
    probability, weight = _discounted(adjusted[0], no_context, 1, discounts[0])
    probability += weight[0] / (num_words - 1)  # over all words and <unk>, never <s>
    probability[START_ID] = 1.0  # so that a sentence may be scored with its start
    orders = []
    context, word = no_context, np.arange(num_words, dtype=np.int32)
    for index, found in enumerate(counted, 1):
        longer, weight = _discounted(adjusted[index], found.context, len(probability), discounts[index])
        longer += weight[found.context] * probability[found.suffix]
        orders.append(NgramOrder(context, word, _log10(probability), _log10(weight)))
        context, word, probability = found.context, found.last, longer
    no_backoff = np.zeros(len(word), dtype=np.float32)
    orders.append(NgramOrder(context, word, _log10(probability), no_backoff))
    return NgramModel(corpus.words, tuple(orders))


def _discounted(
    counts: np.ndarray, context: np.ndarray, num_contexts: int, discounts: Discounts
) -> tuple[np.ndarray, np.ndarray]:
    """Float64 (G,), the discounted share of each count in its context, and float64 (num_contexts,), what the
    discounts leave over; 1 where nothing follows a context."""
    taken = np.array([0.0, *discounts.amounts])[np.minimum(counts, 3)]
    total = np.bincount(context, weights=counts, minlength=num_contexts)
    left_over = np.bincount(context, weights=taken, minlength=num_contexts)
    is_context = total > 0
    weight = np.ones(num_contexts)
    np.divide(left_over, total, out=weight, where=is_context)
    return (counts - taken) / total[context], weight


def _log10(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        logarithms: np.ndarray = np.maximum(np.log10(values), _NEVER).astype(np.float32)
        return logarithms
