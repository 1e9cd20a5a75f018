"""Tells a step that learns from one that would undo the others: its loss is no number, or has exploded."""

from __future__ import annotations

from collections.abc import MutableMapping
from math import isfinite

_MEMORY = 0.98  # of the running mean, about fifty steps
_STEPS_BEFORE_JUDGING = 20


class LossWatch:
    """Compares each step's loss per second of audio with the running mean of those before it.

    Per second, because a batch of long utterances has a larger loss per utterance than one of short ones.
    totals : the run's; its mean lives there, so that a resumed run judges as an uninterrupted one
    """

    def __init__(self, explosion_ratio: float, totals: MutableMapping[str, float]) -> None:
        self._ratio, self._totals = explosion_ratio, totals
        totals.setdefault("mean_loss_per_second", 0.0)
        totals.setdefault("watched_steps", 0.0)

    def fault(self, loss: float, loss_per_second: float, gradient_norm: float) -> str:
        """Why the step must not be taken, "" where it may."""
        if not (isfinite(loss) and isfinite(gradient_norm)):
            return f"loss {loss}, gradient norm {gradient_norm}"
        mean = self._totals["mean_loss_per_second"]
        if self._totals["watched_steps"] >= _STEPS_BEFORE_JUDGING and loss_per_second > self._ratio * mean:
            times = loss_per_second / mean
            return (
                f"loss {loss_per_second:.3g} per second of audio, {times:.0f} times the mean of earlier "
                f"steps (trainer.explosion_ratio {self._ratio:g})"
            )
        return ""

    def learn(self, loss_per_second: float) -> None:
        """Take a sound step into the mean."""
        steps, mean = self._totals["watched_steps"], self._totals["mean_loss_per_second"]
        memory = min(_MEMORY, steps / (steps + 1))
        self._totals["mean_loss_per_second"] = memory * mean + (1 - memory) * loss_per_second
        self._totals["watched_steps"] = steps + 1
