"""The head of the alignment branch: a projection to blank and the teacher's pieces, frame by frame."""

from __future__ import annotations

from torch import Tensor, nn


class AlignmentHead(nn.Linear):
    """Scores of blank and the teacher's pieces for every frame; it only projects, wherever that is done."""

    @property
    def output_weight(self) -> Tensor:
        """Weights of the projection, (num_pieces, D)."""
        return self.weight
