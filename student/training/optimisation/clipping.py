"""Holds back a step whose gradient is far larger than those before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import exp, inf, isfinite, log

import torch
from torch import Tensor, nn

from student.config import TrainerConfig

_MEMORY = 0.98  # of the running mean, about fifty steps
_STEPS_BEFORE_JUDGING = 20


class Clipping:
    """Clips the global norm to an absolute limit, to so many times its running mean, or to the lower of both.

    The mean is that of the norms' logarithms, so that no single step moves it far, and a step that was
    clipped counts with the norm that was left: a lasting rise is followed, a spike is not. Its state travels
    in the checkpoint.
    """

    def __init__(self, config: TrainerConfig) -> None:
        self._absolute, self._ratio = config.gradient_clip, config.gradient_clip_ratio
        self._mean_log = self._num_steps = 0.0

    @property
    def limit(self) -> float:
        """The largest norm that is let through just now, infinity for none."""
        absolute = self._absolute or inf
        if not self._ratio or self._num_steps < _STEPS_BEFORE_JUDGING:
            return absolute
        return min(absolute, self._ratio * exp(self._mean_log))

    def clip(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Scale the gradients down to `limit` where they exceed it, in place; the norm that they had."""
        return torch.nn.utils.clip_grad_norm_(parameters, self.limit)

    def learn(self, norm: float) -> None:
        """Take the norm of a step that was taken into the mean, clipped as it was."""
        if not isfinite(norm) or norm <= 0:
            return
        memory = min(_MEMORY, self._num_steps / (self._num_steps + 1))
        self._mean_log = memory * self._mean_log + (1 - memory) * log(min(norm, self.limit))
        self._num_steps += 1

    def begin_anew(self) -> None:
        """Forget the norms of another objective."""
        self._mean_log = self._num_steps = 0.0

    def state(self) -> dict[str, float]:
        """What `restore` takes."""
        return {"mean_log_norm": self._mean_log, "num_steps": self._num_steps}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from a state, {} of a checkpoint that has none."""
        self._mean_log, self._num_steps = state.get("mean_log_norm", 0.0), state.get("num_steps", 0.0)
