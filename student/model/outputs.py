"""What the network yields: CTC logits by layer, and the decoders' states before their projection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from teacher_cache.common.sizes import MEBIBYTE

_BYTES = 4  # of a float32


class PieceScores(NamedTuple):
    """A decoder's scores of the teacher's P pieces, before the projection that makes it large.

    states : (..., D)     weight : (P, D)     bias : (P,)
    """

    states: Tensor
    weight: Tensor
    bias: Tensor

    def logits(self) -> Tensor:
        """Unnormalised scores, (..., P)."""
        return functional.linear(self.states, self.weight, self.bias)

    def at(self, positions: Tensor) -> PieceScores:
        """The scores of some positions of the flattened grid, states (R, D); positions : int64 (R,)."""
        return self._replace(states=self.states.flatten(0, -2)[positions])

    def slices(self, mebibytes: float) -> Iterator[tuple[slice, PieceScores]]:
        """Runs of positions, states (R, D), whose float32 logits fit in so many MiB."""
        step = max(1, int(mebibytes * MEBIBYTE / (_BYTES * len(self.weight))))
        for start in range(0, len(self.states), step):
            rows = slice(start, start + step)
            yield rows, self._replace(states=self.states[rows])


class StudentOutput(NamedTuple):
    """What a forward pass yields, by layer (1-based; the final layer is `num_layers`).

    ctc_logits : (B, T', num_units) of the final layer, and of the taps where they are trained by CTC
    piece_scores : the decoders' scores of the teacher's pieces, before the projection; empty where no
        piece inputs were given
    frame_lengths : int64 (B,), encoder frames
    teacher_scores : the same of the decoders that learn the teacher's distributions; those of
        `piece_scores` unless decoder.separate
    hidden : (B, T', D), what heads and decoders take
    """

    ctc_logits: dict[int, Tensor]
    piece_scores: dict[int, PieceScores]
    frame_lengths: Tensor
    teacher_scores: dict[int, PieceScores]
    hidden: dict[int, Tensor]


def layer_name(layer: int, final: int) -> str:
    """What terms and figures call a layer: "tap4", or "final"."""
    return "final" if layer == final else f"tap{layer}"
