"""Weights are found wherever they lie, and a weight at the edge of its range is never accepted."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from student.decoding.weight_search import Axis, search_weights
from student.decoding.weights import FusionWeights

AXES = (
    Axis(name="language", first=0.0, step=0.25, count=4, floor=0.0),
    Axis(name="insertion", first=-0.5, step=0.5, count=3),
    Axis(name="prior", first=0.0, step=0.1, count=2, floor=0.0),
)


def bowl(language: float, insertion: float, prior: float):
    def errors(weights: FusionWeights) -> tuple[float, ...]:
        return (
            round(
                (weights.language - language) ** 2
                + (weights.insertion - insertion) ** 2
                + (weights.prior - prior) ** 2,
                9,
            ),
        )

    return errors


@given(st.integers(0, 24), st.integers(-16, 16), st.integers(0, 20))
def test_the_best_is_found_far_beyond_the_first_ranges(language: int, insertion: int, prior: int) -> None:
    target = FusionWeights(language=language / 8, insertion=insertion / 4, prior=prior / 20)
    found = search_weights(bowl(**weights_of(target)), AXES, FusionWeights())
    assert found.weights == target


def weights_of(weights: FusionWeights) -> dict[str, float]:
    return {name: getattr(weights, name) for name in ("language", "insertion", "prior")}


@given(st.randoms(use_true_random=False))
def test_both_neighbours_of_every_weight_were_tried_and_are_no_better(random) -> None:
    """Whatever the errors: noise, here."""
    noise: dict[FusionWeights, tuple[float, ...]] = {}

    def measure(weights: FusionWeights) -> tuple[float, ...]:
        assert weights not in noise, "measured twice"
        far = abs(weights.language) + abs(weights.insertion) + abs(weights.prior)
        noise[weights] = (random.randrange(6) + int(far),)
        return noise[weights]

    found = search_weights(measure, AXES, FusionWeights())
    assert found.tried == noise
    best = noise[found.weights]
    for axis in AXES:
        for sign in (-1, 1):
            value = round(getattr(found.weights, axis.name) + sign * axis.step / 2, 6)
            if axis.floor is None or value >= axis.floor:
                assert noise[replace(found.weights, **{axis.name: value})] >= best


def test_of_equals_the_smallest_weight_stands_and_a_plateau_ends_the_search() -> None:
    found = search_weights(lambda weights: (1.0,), AXES, FusionWeights())
    assert found.weights == FusionWeights()
    assert len(found.tried) < 20
