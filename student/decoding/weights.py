"""How much each part of a fused score counts, and the label prior that may be taken off."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from student.data.units import BLANK_ID
from student.errors import StudentError

_FLOOR = 1e-6  # of a prior: a unit that dev never shows would be worth more than all others


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionWeights:
    """Factors of a hypothesis' parts beside its acoustic log-probability, whose own is 1.

    language : of the language model's log-probability, 0 and up
    insertion : added per unit, or per word by `words`: below 0 shortens, above 0 lengthens
    prior : of the units' log-prior, which is taken off: what the student expects without hearing
    """

    language: float = 0.0
    insertion: float = 0.0
    prior: float = 0.0

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, asdict(self).values())) or self.language < 0 or self.prior < 0:
            raise StudentError(f"{self}: finite, and language and prior 0 and up; run `bert2ctc tune RUN`")


def estimated_log_prior(logits: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """ln of each unit's share of all probability that frames give to units, float32 (V,); the blank's is 0.

    logits : batches of (B, T, V) logits or log-probs with their frame lengths (B,)
    A student that spreads its mass by how often units occur, whatever it hears, has this as its own
    language model; no unit's share is taken as less than 1e-6.
    """
    total: Tensor | None = None
    for scores, lengths in logits:
        probs = scores.float().softmax(-1)
        is_real = torch.arange(probs.shape[1], device=probs.device) < lengths.to(probs.device)[:, None]
        mass = (probs * is_real[..., None]).sum((0, 1)).double().cpu()
        total = mass if total is None else total + mass
    if total is None:
        raise StudentError("no utterance to estimate a prior from; is the dev split empty?")
    total[BLANK_ID] = 0.0
    prior = (total / total.sum().clamp(min=1e-30)).clamp(min=_FLOOR)
    prior = prior / prior[1:].sum()
    log_prior = prior.log().float()
    log_prior[BLANK_ID] = 0.0
    return log_prior
