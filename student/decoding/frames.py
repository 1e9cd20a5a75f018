"""The frames that a beam search has to look at, once runs of certain blanks are folded into steps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from student.data.units import BLANK_ID


class Steps(NamedTuple):
    """S steps of a search; an utterance with fewer ends in steps that pass the blank alone, at no cost.

    log_probs : float32 (B, S, V), a frame that is looked at     is_frame : (B, S), False behind the last
    gap_log_probs : float32 (B, S + 1), of the blanks folded in before each step and, last, behind all
    has_gap : bool (B, S + 1), whether there was any
    """

    log_probs: Tensor
    is_frame: Tensor
    gap_log_probs: Tensor
    has_gap: Tensor


def search_steps(logits: Tensor, frame_lengths: Tensor, certain_blank: float) -> Steps:
    """Steps of a batch, without a loop over frames or utterances.

    logits : (B, T, V) logits or log-probs     certain_blank : a frame whose blank is likelier than this
        passes the blank alone and costs no step; 1 folds none, so that the search is exact
    """
    num_frames = logits.shape[1]
    log_probs = logits.float().log_softmax(-1)
    lengths = frame_lengths.to(logits.device)
    is_real = torch.arange(num_frames, device=logits.device) < lengths[:, None]  # (B, T)
    blank = torch.where(is_real, log_probs[..., BLANK_ID], 0.0)
    is_folded = is_real & (blank.exp() > certain_blank)
    is_kept = is_real & ~is_folded
    counts = is_kept.sum(-1)
    size = int(counts.max()) if counts.numel() else 0
    # kept frames to the front, in their order
    order = (~is_kept).to(torch.uint8).argsort(dim=-1, stable=True)[:, :size]  # (B, S)
    is_frame = torch.arange(size, device=logits.device) < counts[:, None]
    kept = log_probs.gather(1, order[..., None].expand(-1, -1, log_probs.shape[-1]))
    passing = torch.full_like(kept[:1, :1], -torch.inf)
    passing[..., BLANK_ID] = 0.0
    kept = torch.where(is_frame[..., None], kept, passing)
    # float64 where there is any: differences of running sums
    wide = torch.float64 if logits.device.type != "mps" else torch.float32
    folded = torch.where(is_folded, blank, 0.0).to(wide).cumsum(-1)
    return Steps(
        log_probs=kept,
        is_frame=is_frame,
        gap_log_probs=_between(folded, order, is_frame).float(),
        has_gap=_between(is_folded.cumsum(-1), order, is_frame) > 0,
    )


def _between(running: Tensor, order: Tensor, is_frame: Tensor) -> Tensor:
    """Of a running sum (B, T), the part since the last step at each, and behind the last: (B, S + 1)."""
    if not running.shape[1]:
        return running.new_zeros(len(running), 1)
    whole = running[:, -1:]
    at_steps = torch.where(is_frame, running.gather(1, order), whole)
    return torch.cat([at_steps, whole], 1).diff(dim=1, prepend=torch.zeros_like(whole))
