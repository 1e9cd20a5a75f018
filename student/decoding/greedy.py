"""Greedy CTC decoding: one pass over all frames of a batch on its device, no language model, no beam."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from student.data.units import BLANK_ID, Units
from student.decoding.interface import Hypothesis


def greedy_ctc_decode(scores: Tensor, frame_lengths: Tensor, blank_id: int = BLANK_ID) -> list[list[int]]:
    """Best path: argmax per frame, merge repeats, then drop blanks, in that order (Graves et al. 2006).

    scores : (B, T, V) logits or log-probs     frame_lengths : (B,) frames that are no padding
    """
    best_ids = scores.argmax(-1)  # (B, T)
    is_new = torch.ones_like(best_ids, dtype=torch.bool)
    is_new[:, 1:] = best_ids[:, 1:] != best_ids[:, :-1]
    is_unit = is_new & (best_ids != blank_id) & _is_frame(scores, frame_lengths)
    ids = best_ids[is_unit].tolist()
    ends = accumulate(is_unit.sum(-1).tolist(), initial=0)
    return [ids[start:end] for start, end in pairwise(ends)]


def transcripts_of(logits: Tensor, frame_lengths: Tensor, units: Units) -> list[str]:
    """Greedy texts of CTC logits (B, T', num_units)."""
    return [units.decode(ids) for ids in greedy_ctc_decode(logits, frame_lengths)]


@dataclass(frozen=True, slots=True)
class GreedyDecoder:
    """The best path as a `Decoder`: one reading an utterance, scored by its best alignment alone."""

    units: Units
    name: str = "greedy"

    def decode(self, logits: Tensor, frame_lengths: Tensor) -> list[list[Hypothesis]]:
        """As `Decoder` has it."""
        best = logits.float().log_softmax(-1).amax(-1)
        scores = torch.where(_is_frame(logits, frame_lengths), best, 0.0).sum(-1).tolist()
        decoded = greedy_ctc_decode(logits, frame_lengths)
        return [
            [Hypothesis(tuple(ids), self.units.decode(ids), score, score)]
            for ids, score in zip(decoded, scores, strict=True)
        ]


def _is_frame(scores: Tensor, frame_lengths: Tensor) -> Tensor:
    """Bool (B, T): False for padding."""
    return torch.arange(scores.shape[1], device=scores.device) < frame_lengths.to(scores.device)[:, None]
