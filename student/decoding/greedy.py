"""Greedy CTC decoding: parallel over frames, no language model, no beam."""

from __future__ import annotations

from torch import Tensor

from student.data.units import BLANK_ID, Units


def greedy_ctc_decode(scores: Tensor, frame_lengths: Tensor, blank_id: int = BLANK_ID) -> list[list[int]]:
    """Best path: argmax per frame, merge repeats, then drop blanks, in that order (Graves et al. 2006).

    scores : (B, T, V) logits or log-probs     frame_lengths : (B,) frames that are no padding
    """
    best_ids = scores.argmax(-1).cpu()  # (B, T)
    decoded = []
    for row, length in zip(best_ids, frame_lengths.tolist(), strict=True):
        merged = row[:length].unique_consecutive()
        decoded.append(merged[merged != blank_id].tolist())
    return decoded


def transcripts_of(logits: Tensor, frame_lengths: Tensor, units: Units) -> list[str]:
    """Greedy texts of CTC logits (B, T', num_units)."""
    return [units.decode(ids) for ids in greedy_ctc_decode(logits, frame_lengths)]
