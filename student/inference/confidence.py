"""How sure CTC is of a frame: one less the normalised Tsallis entropy of its posteriors.

A word is as sure as its least sure frame: Laptev and Ginsburg 2023, "Fast entropy-based methods of word-level
confidence estimation for end-to-end automatic speech recognition".
"""

from __future__ import annotations

import torch
from torch import Tensor

EXPONENT = 1 / 3


def frame_confidence(log_probs: Tensor, exponent: float = EXPONENT) -> Tensor:
    """Float32 (T,) in 0..1 of log-probabilities (T, V): 1 for a certain frame, 0 for a uniform one.

    exponent : of the probabilities, above 0 and not 1; the smaller, the more does a small rival count
    """
    num_units = log_probs.shape[-1]
    entropy = (exponent * log_probs.double()).exp().sum(
        -1
    ) - 1  # both without their factor 1 / (1 - exponent)
    largest = torch.tensor(num_units, dtype=torch.float64) ** (1 - exponent) - 1
    return (1 - entropy / largest).clamp(0, 1).float()
