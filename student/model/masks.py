"""Masks have one meaning everywhere: True on real data, False on padding."""

from __future__ import annotations

import torch
from torch import Tensor


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """True at the first `lengths` of `size` positions, bool (B, size); lengths : int64 (B,)."""
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)
