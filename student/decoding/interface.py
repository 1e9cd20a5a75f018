"""What a decoder takes and gives, and what it asks of a language model that is handed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

State = Any  # a scorer's own; nobody else looks into it


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One reading of an utterance. Logarithms are natural.

    units : ids of student/data/units.py, never the blank, unless the decoder knows words alone: ()
    text : the units' text
    score : what hypotheses of one utterance are ranked by, higher is better: `acoustic`, plus the other
        parts by their weights
    acoustic : log-probability by CTC alone, of all alignments that the decoder kept, 0 for a certain one
    language : log-probability by the language model alone, the sentence's end included; 0 without a model
    """

    units: tuple[int, ...]
    text: str
    score: float
    acoustic: float
    language: float = 0.0


class Decoder(Protocol):
    """From CTC's scores to text."""

    @property
    def name(self) -> str:
        """As `bert2ctc evaluate --decoder` has it."""

    def decode(self, logits: Tensor, frame_lengths: Tensor) -> list[list[Hypothesis]]:
        """The readings of each utterance, the best first, never none.

        logits : float (B, T, V) logits or log-probs, V outputs of the student: 0 is the blank, 1..V - 1
            are its units     frame_lengths : int (B,) frames that are no padding, 0 included
        What stands behind an utterance's frames, and beside it in the batch, changes nothing.
        """


class NextUnitScores(NamedTuple):
    """What may come next after each of N beginnings of sentences; natural logarithms.

    log_probs : float32 (N, V), V outputs of the student in its own numbering, so column i is unit i of
        `Units.pieces`; column 0, the blank, is -inf
    end_log_probs : float32 (N,), that the sentence ends here
    exp of both sums to 1 in each row, up to rounding and to units that the model does not know (-inf)
    """

    log_probs: Tensor
    end_log_probs: Tensor


class NextUnitScorer(Protocol):
    """A causal language model over a student's units, asked for many beginnings of sentences at once.

    A state holds N rows, one a beginning. Methods give new states and leave the old as they were. What a
    row holds depends on its beginning alone, never on its neighbours (up to rounding).
    """

    @property
    def num_units(self) -> int:
        """V: the student's outputs, the blank included."""

    @property
    def digest(self) -> str:
        """Names the model: SHA-256, hex, of all that its scores depend on."""

    def initial(self, count: int, device: torch.device) -> State:
        """`count` rows that each hold the sentence's start alone."""

    def select(self, state: State, rows: Tensor) -> State:
        """The rows at `rows`, int64 (M,), in that order; one may be taken more than once or not at all."""

    def advance(self, state: State, units: Tensor) -> State:
        """Every row followed by its unit, int64 (N,); a row whose unit is 0, the blank, stays as it is."""

    def scores(self, state: State) -> NextUnitScores:
        """What may come next after each row; of `initial`, what may begin a sentence.

        Costs nothing the second time for rows that stayed: a scorer keeps what it computed in its states.
        """


def texts_of(outcomes: Sequence[Sequence[Hypothesis]]) -> list[str]:
    """The best text of each utterance."""
    return [hypotheses[0].text for hypotheses in outcomes]
