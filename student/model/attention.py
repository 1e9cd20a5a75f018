"""Scaled dot-product attention by the exact form that the machine runs faster, and rotary positions."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
    """Attention of queries (B, H, U, d) to keys and values (B, H, S, d): (B, H, U, d).

    mask : bool, broadcastable to (B, H, U, S), True where a query may look; not together with `causal`
    No dropout on the weights: it would drop a CPU to the slow path. PyTorch's fused kernel, except in
    bfloat16 on a CPU: its backward pass there takes 4 times as long as two plain products at 3 s
    utterances, nearly twice at 13 s, and as long at 32 s.
    """
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    if causal:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    with torch.autocast("cpu", enabled=False):
        scores = (query / sqrt(query.shape[-1])) @ key.transpose(-1, -2)
        if mask is not None:  # added in place: nothing is copied, and nothing is left to do backwards
            scores += torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, -torch.inf)
        return scores.softmax(-1) @ value


def rotation(num_frames: int, head_dim: int, like: Tensor) -> Tensor:
    """Cosines and sines of rotary positions, float32 (2, T, head_dim / 2), on the device of `like`.

    Su et al. 2021, arXiv 2104.09864: attention sees distances in frames, at any length.
    """
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
