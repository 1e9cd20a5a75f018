"""An exponential moving average of the weights, used in the place of those that train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The mean of a model's parameters over its steps, each step `decay` times as heavy as the next one.

    A young average forgets faster, min(decay, (1 + n) / (10 + n)) after n steps, so that what the weights
    were at random is soon gone. Training goes its way as without it. With a decay of 0 it holds nothing.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay, self._parameters = decay, dict(model.named_parameters()) if decay else {}
        self._averages = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self.num_steps = 0

    @torch.no_grad()
    def learn(self) -> None:
        """Take the weights of a step into the average."""
        memory = min(self._decay, (1 + self.num_steps) / (10 + self.num_steps))
        if self._averages:  # all at once: on a GPU one by one they would be launched longer than they run
            torch._foreach_lerp_(list(self._averages.values()), list(self._parameters.values()), 1 - memory)
        self.num_steps += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with its averaged weights; those that train come back afterwards, to the bit."""
        trained = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._load(self._averages)
        try:
            yield
        finally:
            self._load(trained)

    def state(self) -> dict[str, Tensor]:
        """The averages by parameter, which `restore` takes."""
        return self._averages

    @torch.no_grad()
    def restore(self, averages: Mapping[str, Tensor], num_steps: int) -> None:
        """Go on from a state."""
        for name, average in self._averages.items():
            average.copy_(averages[name])
        self.num_steps = num_steps

    @torch.no_grad()
    def _load(self, weights: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(weights[name])
