"""N-grams of sentences counted by sorting packed keys: every order's entries, suffixes and counts."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import PipelineError
from pipeline.language_model.ngram_model import END, START, UNKNOWN

UNKNOWN_ID, START_ID, END_ID = 0, 1, 2
_MOST_TOKENS = 2**31 - 1
BYTES_PER_TOKEN = 60  # while one order is sorted: its keys, their order, the sorted keys, ranks, words
BYTES_PER_ENTRY = 28  # kept of an n-gram; there are at most as many of each order as tokens


@dataclass(frozen=True, slots=True)
class Corpus:
    """Sentences as one stream of word ids, `<s>` before and `</s>` behind each: int32 (T,).

    words : by id; `<unk>`, `<s>`, `</s>`, then by first occurrence, then those that do not occur
    """

    words: tuple[str, ...]
    stream: np.ndarray


@dataclass(frozen=True, slots=True)
class CountedOrder:
    """The G distinct n-grams of one length, sorted by their last word, then by the one before, and so on.

    first, last : int32 (G,), words     suffix, context : int32 (G,), the entry of the order below that is
    all but the first word, or all but the last     count : int64 (G,), how often it occurs
    """

    first: np.ndarray
    last: np.ndarray
    suffix: np.ndarray
    context: np.ndarray
    count: np.ndarray


def bytes_needed(num_tokens: int, order: int, num_words: int = _MOST_TOKENS) -> int:
    """The most memory that counting and estimating n-grams takes.

    num_tokens : with the sentences' ends     num_words : different ones
    """
    num_entries = 0
    for length in range(2, order + 1):
        num_entries += min(num_tokens, num_words**length)
    return num_tokens * BYTES_PER_TOKEN + num_entries * BYTES_PER_ENTRY


def corpus_of(sentences: Iterable[Sequence[str]], vocabulary: Iterable[str] = ()) -> Corpus:
    """Sentences, each a sequence of words, as one stream.

    vocabulary : words that belong to the model whether they occur or not
    Raises PipelineError where a sentence holds `<s>`, `</s>` or `<unk>`, and where there is none.
    """
    ids: defaultdict[str, int] = defaultdict()
    ids.default_factory = ids.__len__
    for special in (UNKNOWN, START, END):
        ids[special]
    stream, num_sentences = array("i"), 0
    for sentence in sentences:
        num_sentences += 1
        stream.append(START_ID)
        stream.extend(map(ids.__getitem__, sentence))
        stream.append(END_ID)
    tokens = np.frombuffer(stream, dtype=np.int32)
    if not len(tokens):
        raise PipelineError("no sentence to count n-grams of; name text under [language_model]")
    if len(tokens) > _MOST_TOKENS:
        raise PipelineError(
            f"{len(tokens):,} tokens are more than {_MOST_TOKENS:,}; lower language_model.max_sentences"
        )
    if np.bincount(tokens, minlength=3)[:3].tolist() != [0, num_sentences, num_sentences]:
        raise PipelineError(f"a sentence holds {UNKNOWN}, {START} or {END}, which are no words; remove them")
    for word in vocabulary:
        ids[word]
    return Corpus(tuple(ids), tokens)


def counted_orders(corpus: Corpus, longest: int) -> Iterator[CountedOrder]:
    """The n-grams of two words and more, a length after the other; none has `<s>` but as its first word."""
    stream, num_words = corpus.stream, len(corpus.words)
    place = _places(stream, longest)
    rank = stream.copy()  # of the n-gram that ends here, among those of its length
    for length in range(2, longest + 1):
        ends = np.flatnonzero(place >= length - 1)
        key = rank[ends].astype(np.int64)
        key *= num_words
        key += stream[ends - (length - 1)]
        order = np.argsort(key)
        key, ends = key[order], ends[order]
        del order
        is_new = np.ones(len(key), dtype=bool)
        np.not_equal(key[1:], key[:-1], out=is_new[1:])
        starts = np.flatnonzero(is_new)
        one_end = ends[starts]
        context = rank[one_end - 1]
        rank[ends] = np.cumsum(is_new, dtype=np.int32) - 1
        distinct = key[starts]
        count = np.diff(np.append(starts, len(key)))
        del key, ends, is_new, starts
        yield CountedOrder(
            first=(distinct % num_words).astype(np.int32),
            last=stream[one_end],
            suffix=(distinct // num_words).astype(np.int32),
            context=context,
            count=count,
        )


def _places(stream: np.ndarray, most: int) -> np.ndarray:
    """Where in its sentence a token stands, `<s>` at 0: uint8 (T,), at most `most`."""
    place = np.zeros(len(stream), dtype=np.uint8)
    is_inside = stream != START_ID
    for distance in range(1, most + 1):
        # A token stands at `distance` or further where the one before stands at `distance` - 1 or further.
        place[distance:] += is_inside[distance:] & (place[distance - 1 : -1] >= distance - 1)
    return place
