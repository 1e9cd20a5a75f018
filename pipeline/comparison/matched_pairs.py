"""Whether two systems differ: the matched-pairs test on sentence segments, and Holm's correction of several.

Gillick and Cox 1989, as NIST's sctk counts it (`sc_stats -t mapsswe`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from student.metrics import WordPair

BOUNDARY_WORDS = 2  # in a row, right in all systems, part two segments: errors are independent across them
FEWEST_SEGMENTS = 50  # below, the normal approximation is not trusted

Aligned = Sequence[Sequence[WordPair]]
"""One system's alignment, utterance by utterance."""


@dataclass(frozen=True, slots=True)
class MatchedPairs:
    """What the test found.

    segments : that hold an error of any system     mean, deviation : of ours - theirs, errors a segment
    p : two-sided, of no difference; None where there are fewer than FEWEST_SEGMENTS segments
    """

    segments: int
    mean: float
    deviation: float
    p: float | None


def matched_pairs(ours: Sequence[Aligned], theirs: Sequence[Aligned]) -> MatchedPairs:
    """The test of two configurations, each of one system or of several seeds.

    Of several seeds the mean of their errors in a segment counts, so that p is of these trained students:
    it knows the noise of the test set, not that of training.
    """
    segments = segment_errors([*ours, *theirs])
    differences = segments[: len(ours)].mean(axis=0) - segments[len(ours) :].mean(axis=0)
    count = len(differences)
    mean = float(differences.mean()) if count else 0.0
    deviation = float(differences.std(ddof=1)) if count > 1 else 0.0
    return MatchedPairs(count, mean, deviation, _two_sided(mean, deviation, count))


def segment_errors(systems: Sequence[Aligned]) -> np.ndarray:
    """int64 (systems, segments): the errors of each, where any has one, in the order of the utterances.

    A segment ends where BOUNDARY_WORDS reference words in a row are right in every system with nothing put in
    between, and with its utterance. What is put in behind the last word counts in every system; sctk leaves
    it out where the first system has nothing there.
    """
    counted = []
    for alignments in zip(*systems, strict=True):
        errors = np.stack([_errors_by_place(alignment) for alignment in alignments])
        places = np.flatnonzero(errors.any(axis=0))
        if len(places):
            right_between = places[1:] // 2 - (places[:-1] + 1) // 2
            starts = np.flatnonzero(np.r_[True, right_between >= BOUNDARY_WORDS])
            counted.append(np.add.reduceat(errors[:, places], starts, axis=1))
    return np.concatenate(counted, axis=1) if counted else np.zeros((len(systems), 0), np.int64)


def holm(chances: Sequence[float | None]) -> list[float | None]:
    """p-values of a family of tests, so raised that chance takes one of it below 0.05 in 5 % (Holm 1979)."""
    known = sorted((chance, index) for index, chance in enumerate(chances) if chance is not None)
    raised: list[float | None] = [None] * len(chances)
    highest = 0.0
    for rank, (chance, index) in enumerate(known):
        highest = max(highest, min(1.0, chance * (len(known) - rank)))
        raised[index] = highest
    return raised


def _errors_by_place(alignment: Sequence[WordPair]) -> np.ndarray:
    """int64 (2 W + 1,): errors at word w at place 2 w + 1, words put in before it at 2 w."""
    num_words = sum(pair.reference is not None for pair in alignment)
    errors = np.zeros(2 * num_words + 1, np.int64)
    word = 0
    for pair in alignment:
        if pair.reference is None:
            errors[2 * word] += 1
        else:
            errors[2 * word + 1] = pair.operation != ""
            word += 1
    return errors


def _two_sided(mean: float, deviation: float, count: int) -> float | None:
    if count < FEWEST_SEGMENTS:
        return None
    if deviation == 0:
        return 1.0 if mean == 0 else 0.0
    return math.erfc(abs(mean) / (deviation / math.sqrt(count)) / math.sqrt(2))
