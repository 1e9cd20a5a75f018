"""CTC prefix beam search in torch, for all utterances and prefixes of a batch at once, on any device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from student.data.units import BLANK_ID, Units
from student.decoding.frames import Steps, search_steps
from student.decoding.interface import Hypothesis, NextUnitScorer, NextUnitScores, State
from student.decoding.weights import FusionWeights
from student.errors import StudentError

_MIXER, _INCREMENT = 6364136223846793005, 1442695040888963407  # Knuth's, of MMIX


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSettings:
    """How wide the search is.

    beam : prefixes kept at each step     units : likeliest units of a frame that prefixes may grow by
    certain_blank : a frame whose blank is likelier than this is passed with the blank alone
    hypotheses : handed out per utterance, at most
    """

    beam: int = 16
    units: int = 30
    certain_blank: float = 0.999
    hypotheses: int = 10

    def __post_init__(self) -> None:
        if min(self.beam, self.units, self.hypotheses) < 1 or not 0 < self.certain_blank <= 1:
            raise StudentError(
                f"beam {self.beam}, units {self.units}, hypotheses {self.hypotheses}, "
                f"certain_blank {self.certain_blank}: 1 and up; certain_blank above 0, at most 1"
            )


class _Beam(NamedTuple):
    """K prefixes of each utterance; what scores -inf is no prefix.

    blank, unit : float32 (B, K), log-probability of the alignments that end in a blank, or in `last`
    language : of the language model so far     other : weighted, of prior and insertion
    last : int64 (B, K), 0 for the empty prefix     name, parent : int64 (B, K), see `_named`
    """

    blank: Tensor
    unit: Tensor
    language: Tensor
    other: Tensor
    last: Tensor
    name: Tensor
    parent: Tensor

    @property
    def acoustic(self) -> Tensor:
        return torch.logaddexp(self.blank, self.unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamDecoder:
    """Prefix beam search over units, alone or with a causal language model that is handed in.

    A prefix scores the log-probability of its alignments + weights.language x that of the language model
    (its end included once the utterance is over) - weights.prior x its units' log-priors
    + weights.insertion x its units.
    log_prior : float32 (V,) of `estimated_log_prior`, needed where weights.prior is not 0
    """

    name: str
    units: Units
    settings: BeamSettings = field(default_factory=BeamSettings)
    scorer: NextUnitScorer | None = None
    weights: FusionWeights = field(default_factory=FusionWeights)
    log_prior: Tensor | None = None

    def __post_init__(self) -> None:
        size = self.units.size
        if self.scorer is not None and self.scorer.num_units != size:
            raise StudentError(
                f"the language model has {self.scorer.num_units} units with the blank, the student {size}; "
                "make it of the student's units with `bert2ctc lm ngram`"
            )
        if self.weights.prior and (self.log_prior is None or self.log_prior.shape != (size,)):
            raise StudentError(
                f"a prior's weight needs {size} log-priors; find both with `bert2ctc tune RUN`"
            )

    @torch.inference_mode()
    def decode(self, logits: Tensor, frame_lengths: Tensor) -> list[list[Hypothesis]]:
        """As `Decoder` has it; `settings.beam` bounds how many readings there are."""
        steps = search_steps(logits, frame_lengths, self.settings.certain_blank)
        scorer = self.scorer if self.weights.language else None
        beam, state, history = self._search(steps, scorer)
        if scorer is not None:
            end = scorer.scores(state).end_log_probs.view(beam.language.shape)
            beam = beam._replace(language=beam.language + end)
        return self._hypotheses(beam, history)

    def _search(
        self, steps: Steps, scorer: NextUnitScorer | None
    ) -> tuple[_Beam, State, list[tuple[Tensor, Tensor]]]:
        """The last beam, the language model's rows of it, and of each step (parents, units), (B, K)."""
        num_rows, num_steps, num_units = steps.log_probs.shape
        num_kept, device = self.settings.beam, steps.log_probs.device
        beam = _empty(num_rows, num_kept, device)
        grown_by = self._growth(device, num_units)
        num_candidates = min(self.settings.units, num_units - 1)
        top_units = steps.log_probs[..., 1:].topk(num_candidates, dim=-1).indices + 1  # (B, S, U)
        state = scorer.initial(num_rows * num_kept, device) if scorer else None
        first_rows = torch.arange(num_rows, device=device)[:, None] * num_kept
        history = []
        for step in range(num_steps):
            beam = _through_gap(beam, steps, step)
            scores = scorer.scores(state) if scorer else None
            units = top_units[:, step]
            beam, parents, grown = self._step(beam, steps.log_probs[:, step], units, scores, grown_by)
            history.append((parents, grown))
            if scorer:
                state = scorer.select(state, (first_rows + parents).flatten())
                if bool(grown.any()):
                    state = scorer.advance(state, grown.flatten())
        return _through_gap(beam, steps, num_steps), state, history

    def _growth(self, device: torch.device, num_units: int) -> Tensor:
        """What each unit adds to a prefix whatever stands before it, (V,): insertion less prior."""
        grown_by = torch.full((num_units,), self.weights.insertion, device=device)
        if self.weights.prior and self.log_prior is not None:
            grown_by -= self.weights.prior * self.log_prior.to(device)
        return grown_by

    def _step(
        self,
        beam: _Beam,
        log_probs: Tensor,
        units: Tensor,
        scores: NextUnitScores | None,
        grown_by: Tensor,
    ) -> tuple[_Beam, Tensor, Tensor]:
        """The beam after a frame, its prefixes' parents (B, K), and the units by which they grew, or 0.

        log_probs : (B, V)     units : (B, U) by which prefixes may grow
        """
        shape = (*beam.last.shape, units.shape[-1])  # (B, K, U)
        acoustic, num_kept = beam.acoustic, beam.last.shape[1]
        of_last = log_probs.gather(1, beam.last)
        stay_blank = acoustic + log_probs[:, BLANK_ID, None]
        stay_unit = beam.unit + of_last
        # A prefix may be another one of the beam grown by a unit: their alignments are summed.
        is_live = acoustic > -torch.inf
        is_child = (beam.parent[:, :, None] == beam.name[:, None, :]) & is_live[:, :, None]  # (B, child, K)
        is_repeat = beam.last[:, :, None] == beam.last[:, None, :]
        from_parent = torch.where(is_repeat, beam.blank[:, None, :], acoustic[:, None, :])
        joined = torch.where(is_child, from_parent, -torch.inf).amax(-1) + of_last
        stay_unit = torch.logaddexp(stay_unit, joined)
        # All others that grow; a repeated unit needs a blank before it.
        many = units[:, None, :].expand(shape)
        is_same = many == beam.last[:, :, None]
        grow_unit = torch.where(is_same, beam.blank[..., None], acoustic[..., None])
        grow_unit = grow_unit + log_probs.gather(1, units)[:, None, :]
        is_there = torch.bmm(is_child.transpose(1, 2).to(grow_unit.dtype), is_same.to(grow_unit.dtype)) > 0
        grow_unit = grow_unit.masked_fill(is_there, -torch.inf)
        grow_other = (beam.other[..., None] + grown_by[units][:, None, :]).expand(shape)
        grow_language = beam.language[..., None].expand(shape)
        if scores is not None:
            rows = scores.log_probs.view(*beam.last.shape, -1)
            grow_language = grow_language + rows.gather(2, many)
        stay_score = torch.logaddexp(stay_blank, stay_unit) + self._fused(beam.language, beam.other)
        grow_score = grow_unit + self._fused(grow_language, grow_other)
        chosen = torch.cat([stay_score, grow_score.flatten(1)], 1).topk(num_kept, dim=1).indices
        grew = chosen >= num_kept
        pair = (chosen - num_kept).clamp(min=0)
        parents = torch.where(grew, pair // shape[2], chosen.clamp(max=num_kept - 1))
        grown = torch.where(grew, units.gather(1, pair % shape[2]), BLANK_ID)

        def picked(stay: Tensor, grow: Tensor) -> Tensor:
            return torch.where(grew, grow.flatten(1).gather(1, pair), stay.gather(1, parents))

        name = beam.name.gather(1, parents)
        after = _Beam(
            blank=stay_blank.gather(1, parents).masked_fill(grew, -torch.inf),
            unit=picked(stay_unit, grow_unit),
            language=picked(beam.language, grow_language),
            other=picked(beam.other, grow_other),
            last=torch.where(grew, grown, beam.last.gather(1, parents)),
            name=torch.where(grew, _named(name, grown), name),
            parent=torch.where(grew, name, beam.parent.gather(1, parents)),
        )
        return after, parents, grown

    def _fused(self, language: Tensor, other: Tensor) -> Tensor:
        return other + self.weights.language * language if self.weights.language else other

    def _hypotheses(self, beam: _Beam, history: list[tuple[Tensor, Tensor]]) -> list[list[Hypothesis]]:
        score = beam.acoustic + self._fused(beam.language, beam.other)
        ranked = score.argsort(dim=1, descending=True, stable=True)[:, : self.settings.hypotheses]
        backwards, rows = [], ranked
        for parents, grown in reversed(history):
            backwards.append(grown.gather(1, rows))
            rows = parents.gather(1, rows)
        by_step = torch.stack(backwards[::-1], -1) if backwards else ranked.new_zeros(*ranked.shape, 0)
        paths = by_step.tolist()
        figures = torch.stack([score, beam.acoustic, beam.language]).gather(2, ranked.expand(3, -1, -1))
        outcomes = []
        for path, of_scores, of_acoustic, of_language in zip(paths, *figures.tolist(), strict=True):
            readings = zip(path, of_scores, of_acoustic, of_language, strict=True)
            outcomes.append(
                [
                    self._hypothesis(units, score, acoustic, language)
                    for number, (units, score, acoustic, language) in enumerate(readings)
                    if score > -torch.inf or number == 0
                ]
            )
        return outcomes

    def _hypothesis(self, path: list[int], score: float, acoustic: float, language: float) -> Hypothesis:
        units = tuple(unit for unit in path if unit != BLANK_ID)
        return Hypothesis(units, self.units.decode(units), score, acoustic, language)


def _empty(num_rows: int, num_kept: int, device: torch.device) -> _Beam:
    """The empty prefix in each utterance's first place, nothing in the others."""
    nothing = torch.full((num_rows, num_kept), -torch.inf, device=device)
    blank = nothing.clone()
    blank[:, 0] = 0.0
    none = torch.zeros_like(nothing)
    numbers = torch.zeros_like(nothing, dtype=torch.int64)
    return _Beam(blank, nothing, none, none, numbers, numbers, numbers - 1)


def _through_gap(beam: _Beam, steps: Steps, step: int) -> _Beam:
    """The beam after the blanks that were folded in before a step: every alignment ends in a blank."""
    has_gap, cost = steps.has_gap[:, step, None], steps.gap_log_probs[:, step, None]
    return beam._replace(
        blank=torch.where(has_gap, beam.acoustic + cost, beam.blank),
        unit=beam.unit.masked_fill(has_gap, -torch.inf),
    )


def _named(name: Tensor, unit: Tensor) -> Tensor:
    """A prefix's name after it grew: a hash of 64 bits, so that equal prefixes are found without a loop.

    Two prefixes of one beam share one by chance about once in 10^15 searches of 200 steps.
    """
    mixed = (name ^ unit) * _MIXER + _INCREMENT
    return mixed ^ (mixed >> 29)
