"""Tells a step that learns from one that would undo the others: its loss is no number, or has exploded."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

_MEMORY = 0.98  # of the running mean, about fifty steps
_STEPS_BEFORE_JUDGING = 20


class SpikeDetector:
    """Compares each step's loss per second of audio with the running mean of those before it.

    Per second, because a batch of long utterances has a larger loss per utterance than one of short ones.
    Its state travels in the checkpoint: a resumed run judges as an uninterrupted one.
    """

    def __init__(self, explosion_ratio: float) -> None:
        self._ratio = explosion_ratio
        self.mean_loss_per_second = 0.0
        self.num_steps = 0

    def fault(self, loss: float, loss_per_second: float, gradient_norm: float) -> str:
        """Why the step must not be taken, "" where it may."""
        if not (isfinite(loss) and isfinite(gradient_norm)):
            return f"loss {loss}, gradient norm {gradient_norm}"
        is_known = self.num_steps >= _STEPS_BEFORE_JUDGING
        if is_known and loss_per_second > self._ratio * self.mean_loss_per_second:
            times = loss_per_second / self.mean_loss_per_second
            return (
                f"loss {loss_per_second:.3g} per second of audio, {times:.0f} times the mean of earlier "
                f"steps (trainer.explosion_ratio {self._ratio:g})"
            )
        return ""

    def learn(self, loss_per_second: float) -> None:
        """Take a sound step into the mean."""
        memory = min(_MEMORY, self.num_steps / (self.num_steps + 1))
        self.mean_loss_per_second = memory * self.mean_loss_per_second + (1 - memory) * loss_per_second
        self.num_steps += 1

    def begin_anew(self) -> None:
        """Forget the losses of another objective."""
        self.mean_loss_per_second, self.num_steps = 0.0, 0

    def state(self) -> dict[str, float]:
        """What `restore` takes."""
        return {"mean_loss_per_second": self.mean_loss_per_second, "num_steps": float(self.num_steps)}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from a state."""
        self.mean_loss_per_second = state["mean_loss_per_second"]
        self.num_steps = int(state["num_steps"])
