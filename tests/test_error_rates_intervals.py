from __future__ import annotations

import numpy as np
import pytest

from pipeline.error_rates.intervals import bootstrap_ratios, interval, mean_over_seeds
from pipeline.errors import PipelineError


def test_a_ratio_that_no_block_changes_has_no_width() -> None:
    drawn = bootstrap_ratios(np.array([1, 2, 3]), np.array([2, 4, 6]), ["a", "b", "c"])
    assert drawn.shape == (10_000, 1) and interval(drawn[:, 0]) == (0.5, 0.5)


def test_it_is_the_brute_force_resampling_of_blocks() -> None:
    """Mean and deviation equal those of all 27 resamples of three blocks, each equally likely."""
    above, below = np.array([1, 0, 4, 2, 5]), np.array([2, 3, 4, 5, 6])
    blocks = ["a", "a", "b", "b", "c"]
    sums = {
        name: (above[[b == name for b in blocks]].sum(), below[[b == name for b in blocks]].sum())
        for name in "abc"
    }
    every = [
        sum(sums[name][0] for name in drawn) / sum(sums[name][1] for name in drawn)
        for drawn in ((x, y, z) for x in "abc" for y in "abc" for z in "abc")
    ]
    found = bootstrap_ratios(above, below, blocks, draws=200_000)[:, 0]
    assert found.mean() == pytest.approx(np.mean(every), abs=2e-3)
    assert found.std() == pytest.approx(np.std(every), abs=2e-3)
    assert set(np.round(found, 9)) == set(np.round(every, 9))


def test_systems_see_the_same_draws() -> None:
    generator = np.random.default_rng(1)
    errors, words = generator.integers(0, 3, size=(2, 50)), np.full((2, 50), 7)
    blocks = list(range(50))
    both = bootstrap_ratios(errors, words, blocks)
    for row in (0, 1):
        assert np.array_equal(both[:, row], bootstrap_ratios(errors[row], words[row], blocks)[:, 0])


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Blocks of dependent items; an interval that drew items instead would cover far less."""
    generator = np.random.default_rng(0)
    covered, trials, blocks = 0, 200, np.repeat(np.arange(40), 10)
    for trial in range(trials):
        chance = np.repeat(generator.beta(2, 6, size=40), 10)
        errors = generator.random(400) < chance
        drawn = bootstrap_ratios(errors, np.ones(400), blocks.tolist(), draws=500, seed=trial)
        low, high = interval(drawn[:, 0])
        covered += low <= 0.25 <= high
    assert 0.88 <= covered / trials <= 0.99


def test_one_seed_is_taken_as_it_is_and_several_add_their_noise() -> None:
    drawn = np.array([[0.1, 0.3]] * 4000)
    assert np.array_equal(mean_over_seeds(drawn[:, :1]), drawn[:, 0])
    assert set(np.round(mean_over_seeds(drawn), 6)) == {0.1, 0.2, 0.3}


def test_a_resample_without_a_denominator_is_left_out() -> None:
    drawn = bootstrap_ratios(np.array([0, 1]), np.array([0, 2]), ["a", "b"])[:, 0]
    assert np.isnan(drawn).any() and interval(drawn) == (0.5, 0.5)


def test_sizes_that_disagree_are_refused() -> None:
    with pytest.raises(PipelineError, match="one and the same split"):
        bootstrap_ratios(np.ones(3), np.ones(3), ["a", "b"])
    with pytest.raises(PipelineError, match="one and the same split"):
        bootstrap_ratios(np.ones(0), np.ones(0), [])
