"""Figures of evaluated students against each other: differences paired by item, over seeds and corpora."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.error_rates.intervals import bootstrap_ratios, interval, mean_over_seeds
from pipeline.errors import PipelineError

Figure = tuple[str, ...]  # the path of a figure in a results.json, such as ("wer",)


class Counted(NamedTuple):
    """Numerator and denominator of a figure by item, (U,) each, and the block that each item belongs to."""

    above: np.ndarray
    below: np.ndarray
    blocks: Sequence[str]


Counts = Mapping[Figure, Counted]  # of one run on one split


def differences_of(
    ours: Mapping[str, Sequence[Counts]], theirs: Mapping[str, Sequence[Counts]]
) -> dict[str, Any]:
    """Differences, ours less theirs, of every figure, paired by item, with 95 % intervals.

    ours, theirs : by corpus the runs of one configuration, a run a seed
    Each figure holds difference, interval, relative (difference / theirs), relative_interval, at its path.
    Blocks are drawn, and seeds where there are several; corpora count alike.
    Raises PipelineError where the two are of other corpora.
    """
    parts: dict[Figure, list[tuple[np.ndarray, np.ndarray]]] = {}
    points: dict[Figure, list[tuple[float, float]]] = {}
    if ours.keys() != theirs.keys():
        raise PipelineError("students of other corpora are not compared; evaluate both on the same ones")
    for corpus, one in ours.items():
        other = theirs[corpus]
        for figure in one[0]:
            above, below, blocks = zip(*(of_run[figure] for of_run in (*one, *other)), strict=True)
            tops, bottoms = np.stack(above), np.stack(below)
            drawn = bootstrap_ratios(tops, bottoms, blocks[0])
            pair = (mean_over_seeds(drawn[:, : len(one)], 1), mean_over_seeds(drawn[:, len(one) :], 2))
            parts.setdefault(figure, []).append(pair)
            totals = bottoms.sum(axis=1)
            values = np.divide(tops.sum(axis=1), totals, out=np.full(len(totals), np.nan), where=totals > 0)
            points.setdefault(figure, []).append((values[: len(one)].mean(), values[len(one) :].mean()))
    found: dict[str, Any] = {}
    for figure, pairs in parts.items():
        ours_drawn, theirs_drawn = (np.mean([pair[side] for pair in pairs], axis=0) for side in (0, 1))
        ours_value, theirs_value = np.mean(points[figure], axis=0)
        put(found, figure, _difference(ours_value, theirs_value, ours_drawn, theirs_drawn))
    return found


def put(tree: dict[str, Any], path: Figure, value: Any) -> None:
    """Write a value at its path, with the tables that lead there."""
    *parents, last = path
    for name in parents:
        tree = tree.setdefault(name, {})
    tree[last] = value


def _difference(
    ours: float, theirs: float, ours_drawn: np.ndarray, theirs_drawn: np.ndarray
) -> dict[str, Any] | None:
    """None where one of the two is not defined; relative figures are None beside a zero."""
    if np.isnan(ours) or np.isnan(theirs):
        return None
    positive = np.where(theirs_drawn > 0, theirs_drawn, np.nan)
    relative = interval(ours_drawn / positive - 1) if theirs > 0 else None
    return {
        "ours": float(ours),
        "theirs": float(theirs),
        "difference": float(ours - theirs),
        "interval": interval(ours_drawn - theirs_drawn),
        "relative": float(ours / theirs - 1) if theirs > 0 else None,
        "relative_interval": relative,
    }
