"""Rotary positions (Su et al. 2021, arXiv 2104.09864): attention sees distances in frames, at any length."""

from __future__ import annotations

import torch
from torch import Tensor


def rotation(num_frames: int, head_dim: int, like: Tensor) -> Tensor:
    """Cosines and sines, float32 (2, T, head_dim / 2), on the device of `like`."""
    pairs = torch.arange(0, head_dim, 2, device=like.device, dtype=torch.float32)
    angles = torch.outer(
        torch.arange(num_frames, device=like.device, dtype=torch.float32), 10_000.0 ** (-pairs / head_dim)
    )
    return torch.stack((angles.cos(), angles.sin()))


def rotate(x: Tensor, rotation_by_frame: Tensor) -> Tensor:
    """Turn each pair (i, i + head_dim / 2) of x (..., T, head_dim) by its frame's angle, in x's dtype."""
    cosine, sine = rotation_by_frame.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
