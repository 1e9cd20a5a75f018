"""Confidence intervals of ratios by a bootstrap over blocks, the same draws for every system."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from pipeline.errors import PipelineError

DRAWS = 10_000
LEVEL = 0.95
_DRAWS_AT_ONCE = 1000  # weights of ten thousand utterances then take 80 MB


def bootstrap_ratios(
    numerators: np.ndarray,
    denominators: np.ndarray,
    blocks: Sequence[Hashable],
    draws: int = DRAWS,
    seed: int = 0,
) -> np.ndarray:
    """float64 (draws, R): the ratio of sums of each of R systems in each resample of the blocks.

    numerators, denominators : (R, U), a row a system, a column an item (errors and words of an utterance)
    blocks : what each item belongs to (its cue, its speaker); items of a block are not independent, so that
        blocks are drawn, as many as there are, with replacement
    Every system sees the same draws: the difference of two columns is paired. NaN where a resample holds
    nothing of a denominator. Efron and Tibshirani 1993, chapter 6; Bisani and Ney 2004 for word errors.
    Raises PipelineError where there is no item, or the sizes disagree.
    """
    numerators, denominators = (np.atleast_2d(np.asarray(part, float)) for part in (numerators, denominators))
    if not blocks or numerators.shape != denominators.shape or numerators.shape[1] != len(blocks):
        raise PipelineError(
            f"no interval of {numerators.shape} over {denominators.shape} in {len(blocks)} items; "
            "evaluate every run on one and the same split"
        )
    names = {block: index for index, block in enumerate(dict.fromkeys(blocks))}
    membership = np.zeros((len(blocks), len(names)))
    membership[np.arange(len(blocks)), [names[block] for block in blocks]] = 1
    chances = np.full(len(names), 1 / len(names))
    sums = (numerators @ membership).T, (denominators @ membership).T
    generator, ratios = np.random.default_rng(seed), np.full((draws, len(numerators)), np.nan)
    for start in range(0, draws, _DRAWS_AT_ONCE):  # the generator goes on: the same draws as all at once
        part = ratios[start : start + _DRAWS_AT_ONCE]
        weights = generator.multinomial(len(names), chances, size=len(part))
        above, below = (weights @ of_blocks for of_blocks in sums)
        np.divide(above, below, out=part, where=below > 0)
    return ratios


def mean_over_seeds(ratios: np.ndarray, seed: int = 0) -> np.ndarray:
    """float64 (draws,): the mean over the trained seeds (columns), which are drawn with replacement too.

    Thus the interval holds both noises, of the test set and of training; one seed is taken as it is.
    """
    draws, num_seeds = ratios.shape
    chosen = np.random.default_rng(seed).integers(num_seeds, size=(draws, num_seeds))
    return np.asarray(np.take_along_axis(ratios, chosen, axis=1).mean(axis=1))


def interval(draws: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The percentiles that leave equal parts of the draws outside; NaN draws are left out."""
    low, high = np.nanpercentile(draws, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)
