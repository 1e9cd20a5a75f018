"""Scaled dot-product attention by whichever exact form the machine runs faster."""

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
