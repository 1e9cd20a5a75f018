"""How far two configurations are apart in word error rate, and whether that may be chance."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from pipeline.comparison.matched_pairs import holm, matched_pairs
from pipeline.comparison.systems import SharedSplit, System
from pipeline.error_rates.intervals import bootstrap_ratios, interval, mean_over_seeds
from pipeline.errors import PipelineError

Interval = tuple[float, float]
FEW_SPEAKERS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One configuration less another; rates are shares of 1, intervals hold 95 %.

    relative : difference over the other's rate; None where that is 0
    by_speakers : whole speakers are drawn; None with fewer than two     by_utterances : utterances are
    segments, p : of `matched_pairs`     corrected_p : Holm's, over all differences of the comparison
    Where a configuration has several seeds the intervals hold the noise of training too; p does not.
    """

    ours: str
    minus: str
    difference: float
    relative: float | None
    by_speakers: Interval | None
    by_utterances: Interval
    segments: int
    p: float | None
    corrected_p: float | None = None


@dataclass(frozen=True, slots=True)
class Rate:
    """A configuration's word error rate, the mean over its seeds; intervals as of `Difference`."""

    name: str
    seeds: tuple[int, ...]
    wer: float
    by_speakers: Interval | None
    by_utterances: Interval


def rates_of(systems: Sequence[System], test_set: SharedSplit) -> list[Rate]:
    """The rates, all from the same draws."""
    errors = [system.errors for system in systems]
    drawn = [_drawn(errors, test_set, blocks) for blocks in _blocks(test_set)]
    found = []
    for index, system in enumerate(systems):
        bounds = [None if of_kind is None else interval(of_kind[index]) for of_kind in drawn]
        seeds = tuple(run.seed for run in system.runs)
        assert bounds[1] is not None
        found.append(Rate(system.name, seeds, system.wer(test_set), bounds[0], bounds[1]))
    return found


def compare(systems: Sequence[System], test_set: SharedSplit, every_pair: bool = False) -> list[Difference]:
    """Each configuration less the first, or less every one before it; p corrected over all of them.

    Raises PipelineError for fewer than two.
    """
    if len(systems) < 2:
        raise PipelineError(
            "one configuration alone: the runs differ in their seeds at most; name a run of another one too"
        )
    pairs = list(combinations(range(len(systems)), 2)) if every_pair else [
        (0, other) for other in range(1, len(systems))
    ]  # fmt: skip
    drawn = [_drawn([one.errors for one in systems], test_set, blocks) for blocks in _blocks(test_set)]
    found = []
    for minus, ours in pairs:
        tested = matched_pairs(systems[ours].alignments, systems[minus].alignments)
        bounds = [None if of_kind is None else interval(of_kind[ours] - of_kind[minus]) for of_kind in drawn]
        rates = [systems[index].wer(test_set) for index in (ours, minus)]
        assert bounds[1] is not None
        found.append(
            Difference(
                ours=systems[ours].name,
                minus=systems[minus].name,
                difference=rates[0] - rates[1],
                relative=rates[0] / rates[1] - 1 if rates[1] else None,
                by_speakers=bounds[0],
                by_utterances=bounds[1],
                segments=tested.segments,
                p=tested.p,
            )
        )
    corrected = holm([one.p for one in found])
    return [replace(one, corrected_p=p) for one, p in zip(found, corrected, strict=True)]


def paired_interval(
    ours: np.ndarray, minus: np.ndarray, counts: np.ndarray, blocks: Sequence[Hashable]
) -> Interval:
    """Of the difference of two ratios with the same denominators `counts`; (seeds, U) each."""
    drawn = _ratios([ours, minus], counts, blocks)
    return interval(drawn[0] - drawn[1])


def _blocks(test_set: SharedSplit) -> tuple[Sequence[Hashable] | None, Sequence[Hashable]]:
    return (test_set.speakers if test_set.num_speakers > 1 else None), test_set.ids


def _drawn(
    errors: Sequence[np.ndarray], test_set: SharedSplit, blocks: Sequence[Hashable] | None
) -> list[np.ndarray] | None:
    return None if blocks is None else _ratios(errors, test_set.words, blocks)


def _ratios(errors: Sequence[np.ndarray], counts: np.ndarray, blocks: Sequence[Hashable]) -> list[np.ndarray]:
    """Each configuration's mean over its seeds by draw; test sets are drawn alike for all."""
    stacked = np.concatenate(errors)
    ratios = bootstrap_ratios(stacked, np.broadcast_to(counts, stacked.shape), blocks)
    ends = np.cumsum([len(one) for one in errors])
    columns = np.split(ratios, ends[:-1], axis=1)
    return [mean_over_seeds(own, seed=index + 1) for index, own in enumerate(columns)]
