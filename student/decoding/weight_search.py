"""The weights with the fewest errors, found along one weight at a time; none is left at an edge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from student.decoding.weights import FusionWeights

Errors = tuple[float, ...]  # what is to be least, the first figure first
_DIGITS = 6  # equal weights are equal whatever sums led to them


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Where one weight is looked for first: `first`, then in steps of `step`, `count` values in all.

    floor : below it the weight has no meaning, so that it is no edge; None where there is none
    """

    name: str
    first: float
    step: float
    count: int
    floor: float | None = None

    def values(self) -> list[float]:
        """Ascending."""
        return [round(self.first + number * self.step, _DIGITS) for number in range(self.count)]


@dataclass(frozen=True, slots=True)
class Found:
    """The best weights, and errors by all weights that were tried, in that order."""

    weights: FusionWeights
    tried: Mapping[FusionWeights, Errors]


def search_weights(
    measure: Callable[[FusionWeights], Errors], axes: Sequence[Axis], start: FusionWeights, halvings: int = 1
) -> Found:
    """Along each axis in turn until none helps, then again with steps half as wide, `halvings` times.

    measure : called once for each weights
    Along an axis the best of its values is taken, the smallest of equals. Where that is the range's edge,
    the range is extended by a step, until a value beyond it is no better: at the end both neighbours of
    every weight, or the one above its floor, have been tried and are no better.
    """
    search = _Search(measure)
    weights = start
    for axis in axes:
        weights = search.along(axis, weights, axis.values())
    for halving in range(halvings + 1):
        while True:
            before = weights
            for axis in axes:
                narrow = replace(axis, step=axis.step / 2**halving)
                weights = search.along(narrow, weights, [getattr(weights, axis.name)])
            if weights == before:
                break
    return Found(weights, search.tried)


class _Search:
    """Measures weights, each once."""

    def __init__(self, measure: Callable[[FusionWeights], Errors]) -> None:
        self._measure = measure
        self.tried: dict[FusionWeights, Errors] = {}

    def along(self, axis: Axis, weights: FusionWeights, values: list[float]) -> FusionWeights:
        """The best weights on the line through `weights`, of `values` and on as far as it helps."""

        def at(value: float) -> FusionWeights:
            return replace(weights, **{axis.name: value})

        def key(value: float) -> tuple[Errors, float]:
            return self._errors(at(value)), abs(value)

        while True:
            best = min(values, key=key)
            lower, upper = (round(best + sign * axis.step, _DIGITS) for sign in (-1, 1))
            beyond = []
            if best == min(values) and (axis.floor is None or lower >= axis.floor):
                beyond.append(lower)
            if best == max(values):
                beyond.append(upper)
            if not beyond:
                return at(best)
            values = [*values, *beyond]

    def _errors(self, weights: FusionWeights) -> Errors:
        if weights not in self.tried:
            self.tried[weights] = self._measure(weights)
        return self.tried[weights]
