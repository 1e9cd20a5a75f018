"""What a training step takes: padded tensors that move together."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor


class _Batch:
    """Tensors that move together."""

    __slots__ = ()

    def to(self, device: torch.device | str) -> Self:
        """The same batch on `device`."""
        moved = {
            field.name: value.to(device)
            for field in fields(self)  # type: ignore[arg-type]
            if (value := getattr(self, field.name)) is not None
        }
        return replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True, slots=True)
class TeacherBatch(_Batch):
    """The teacher's distributions at the temperature in use, over decoder outputs.

    top_indices : int64 (B, U, k), outputs of the decoder; any valid index where the log-prob is -inf
    top_logprobs : float32 (B, U, k), -inf where a candidate is no output and on padding
    tail_logprob : float32 (B, U), all mass outside; not read under tail = "renormalise"
    """

    top_indices: Tensor
    top_logprobs: Tensor
    tail_logprob: Tensor


@dataclass(frozen=True, slots=True)
class DecoderBatch(_Batch):
    """Transcripts in the teacher's pieces.

    piece_inputs : int64 (B, U + 1), <eos> first; any valid id as padding
    piece_targets : int64 (B, U + 1), <eos> last, -100 as padding
    token_lengths : int64 (B,), pieces without <eos>
    unit_spans : int64 (B, U + 1, 2), first unit of each token's word or piece and the one behind its last,
        equal where unknown and on padding; None where decoders attend freely
    """

    piece_inputs: Tensor
    piece_targets: Tensor
    token_lengths: Tensor
    teacher: TeacherBatch | None = None
    unit_spans: Tensor | None = None


@dataclass(frozen=True, slots=True)
class TrainingBatch(_Batch):
    """One micro batch.

    features : float32 (B, T, mel_bins), normalised, augmented     frame_lengths : int64 (B,), 10 ms frames
    units : int64 (B, L), CTC units, any value as padding     unit_lengths : int64 (B,)
    """

    features: Tensor
    frame_lengths: Tensor
    units: Tensor
    unit_lengths: Tensor
    decoder: DecoderBatch | None = None
