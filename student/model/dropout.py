"""Dropout that a CPU affords: PyTorch's own spends a third of a small Conformer's step drawing its masks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

_STEPS = 65_536  # values of 16 random bits


class Dropout(nn.Module):
    """Zero each element with a probability rounded to 1/65,536, and scale the rest so that the mean stays.

    Off a CPU it is PyTorch's. On a CPU four decisions come from one 64-bit draw of the default generator.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """x itself in eval mode."""
        if not self.training or self.probability == 0:
            return x
        if x.device.type != "cpu":
            return functional.dropout(x, self.probability)
        dropped = round(self.probability * _STEPS)
        draws = torch.randint(-(2**63), 2**63 - 1, ((x.numel() + 3) // 4,))
        decisions = draws.view(torch.int16)[: x.numel()].view(x.shape)
        kept = torch.ge(decisions, dropped - _STEPS // 2, out=torch.empty(x.shape, dtype=x.dtype))
        return x * kept.mul_(_STEPS / (_STEPS - dropped))

    def extra_repr(self) -> str:
        """The probability, for print(model)."""
        return str(self.probability)


def dropout_seed(seed: int, step: int, rank: int = 0) -> int:
    """The seed of a step's dropout, so that no generator's state needs to be saved."""
    entropy = (seed, step, rank) if rank else (seed, step)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)
