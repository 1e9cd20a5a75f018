"""What a cache says of one passage, as plain values for people: pieces, probabilities, ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from teacher_cache.passages import DIGEST_BYTES, Passage
from teacher_cache.store.checked_cache import CheckedCache
from teacher_cache.store.passage_rows import rows_of_passages
from teacher_cache.store.reader import TeacherCacheReader
from teacher_cache.store.rows import RowBlock


@dataclass(frozen=True, slots=True)
class Candidate:
    """A piece that the teacher ranked, and its probability at T = 1 over the full vocabulary."""

    piece: str
    probability: float
    is_gold: bool


@dataclass(frozen=True, slots=True)
class InspectedToken:
    """One token of a passage.

    rank : of the piece that stands there, 1 for the likeliest; None where it is none of the K
    other_probability : of all pieces that are not among `candidates`
    """

    piece: str
    probability: float
    rank: int | None
    candidates: tuple[Candidate, ...]
    other_probability: float


@dataclass(frozen=True, slots=True)
class InspectedPassage:
    """A passage under the name it was asked for by, token by token."""

    name: str
    passage: Passage
    tokens: tuple[InspectedToken, ...]


def inspect_passages(path: Path, passages: Mapping[str, Passage], top: int) -> list[InspectedPassage]:
    """The labels of the passages, `top` candidates each (at most K), in the order asked for.

    Raises the reader's CacheError where the cache does not hold one. Nothing but the shards of their rows is
    read, and held to their receipts.
    """
    TeacherCacheReader(path).require({name: passage.digest for name, passage in passages.items()})
    cache = CheckedCache(path)
    digests = np.frombuffer(b"".join(passage.digest for passage in passages.values()), np.uint8)
    rows, lengths = rows_of_passages(cache, digests.reshape(-1, DIGEST_BYTES))
    stops = np.cumsum(lengths).tolist()
    return [
        InspectedPassage(name, passage, _tokens(rows.take(slice(start, stop)), cache.vocabulary, top))
        for (name, passage), start, stop in zip(passages.items(), [0, *stops], stops, strict=False)
    ]


def _tokens(rows: RowBlock, vocabulary: list[str], top: int) -> tuple[InspectedToken, ...]:
    tokens = []
    for row in range(len(rows)):
        gold = int(rows.gold_id[row])
        ids = rows.top_id[row].astype(np.int64)
        probabilities = np.exp(rows.top_logprob[row].astype(np.float64))
        ranks = np.flatnonzero(ids == gold)
        tokens.append(
            InspectedToken(
                piece=vocabulary[gold],
                probability=float(np.exp(np.float64(rows.gold_logprob[row]))),
                rank=int(ranks[0]) + 1 if len(ranks) else None,
                candidates=tuple(
                    Candidate(vocabulary[piece], float(probability), int(piece) == gold)
                    for piece, probability in zip(ids[:top], probabilities[:top], strict=True)
                ),
                other_probability=max(0.0, 1.0 - float(probabilities[:top].sum())),
            )
        )
    return tuple(tokens)
