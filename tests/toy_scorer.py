"""A language model over units that is a table of two units' history, and its sentences scored by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from student.decoding.interface import NextUnitScores


class ToyScorer:
    """A random trigram; a state holds the last two units, 0 where there is none."""

    def __init__(self, num_units: int, seed: int = 0) -> None:
        self.num_units = num_units
        self.digest = f"{seed:064x}"
        self.advanced_rows: list[int] = []
        generator = torch.Generator().manual_seed(seed)
        table = 2 * torch.randn(num_units, num_units, num_units, generator=generator)
        self._table = table.log_softmax(-1)  # column 0 is the sentence's end

    def initial(self, count: int, device: torch.device) -> Tensor:
        return torch.zeros(count, 2, dtype=torch.int64, device=device)

    def select(self, state: Tensor, rows: Tensor) -> Tensor:
        return state[rows]

    def advance(self, state: Tensor, units: Tensor) -> Tensor:
        self.advanced_rows.append(int((units > 0).sum()))
        grown = torch.stack([state[:, 1], units], 1)
        return torch.where((units > 0)[:, None], grown, state)

    def scores(self, state: Tensor) -> NextUnitScores:
        rows = self._table.to(state.device)[state[:, 0], state[:, 1]]
        log_probs = rows.clone()
        log_probs[:, 0] = -torch.inf
        return NextUnitScores(log_probs, rows[:, 0])

    def sentence(self, units: Sequence[int]) -> float:
        """Natural log-probability of the whole sentence, its end included."""
        padded = [0, 0, *units, 0]
        return sum(float(self._table[tuple(padded[place : place + 3])]) for place in range(len(padded) - 2))
