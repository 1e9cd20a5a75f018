"""From the logits of masked tokens to what a row holds: exact normalisers and tails, ties told apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from teacher_cache.store.rows import RowBlock


@torch.inference_mode()
def rank_logits(
    logits: Tensor, gold_id: Tensor, is_unranked: Tensor, top_k: int, temperatures: Sequence[float]
) -> RowBlock:
    """The rows of n masked tokens.

    logits : float32 (n, V), -inf for a piece that has no probability     gold_id : int64 (n,)
    is_unranked : bool (V,), never a candidate; their mass stays in the normalisers and in the tail.
    top_k must not exceed the number of the other pieces. Where a logit is NaN or +inf, or the gold piece's is
    -inf, gold_logprob is not finite: whoever calls refuses that.
    """
    normaliser = logits.logsumexp(-1, keepdim=True)  # (n, 1)
    top_logits, top_id = _largest(logits.index_fill(1, is_unranked.nonzero()[:, 0], -torch.inf), top_k)
    others = logits.scatter(1, top_id, -torch.inf)
    lognorm, tail = [], []
    for temperature in temperatures:
        scaled = normaliser[:, 0] if temperature == 1 else (logits / temperature).logsumexp(-1)
        lognorm.append(scaled - normaliser[:, 0] / temperature)
        tail.append((others / temperature).logsumexp(-1) - scaled)
    return RowBlock(
        gold_id=gold_id.cpu().numpy(),
        gold_logprob=(logits.gather(1, gold_id[:, None]) - normaliser)[:, 0].cpu().numpy(),
        top_id=top_id.cpu().numpy(),
        top_logprob=(top_logits - normaliser).cpu().numpy(),
        lognorm=torch.stack(lognorm, 1).cpu().numpy(),
        tail_logprob=torch.stack(tail, 1).cpu().numpy(),
    )


def _largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest values and their indices, descending, ties by the smaller index.

    `topk` leaves open which of equal values it takes and in which order.
    """
    found, index = values.topk(min(count + 1, values.shape[1]), dim=-1)
    if found.shape[1] > count:
        is_cut_through_a_tie = found[:, count - 1] == found[:, count]
    else:
        is_cut_through_a_tie = torch.zeros(len(found), dtype=torch.bool, device=found.device)
    index = index[:, :count].sort(dim=-1).values
    found = values.gather(1, index)
    order = found.argsort(dim=-1, descending=True, stable=True)
    index, found = index.gather(1, order), found.gather(1, order)
    if is_cut_through_a_tie.any():
        tied = values[is_cut_through_a_tie].sort(dim=-1, descending=True, stable=True)
        found[is_cut_through_a_tie] = tied.values[:, :count]
        index[is_cut_through_a_tie] = tied.indices[:, :count]
    return found, index


def in_order(blocks: Sequence[RowBlock], indices: Sequence[np.ndarray]) -> RowBlock:
    """The rows of all blocks in the order of their indices, int64 (n,) for each block."""
    return RowBlock.concatenate(blocks).take(np.argsort(np.concatenate(indices), kind="stable"))
