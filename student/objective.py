"""What training minimises: named terms from `student.losses`, and the one table that weighs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from student.config import StudentConfig
from student.errors import StudentError
from student.losses import ctc_loss, distillation_loss, smoothed_cross_entropy
from student.model import StudentOutput


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
    """

    piece_inputs: Tensor
    piece_targets: Tensor
    token_lengths: Tensor
    teacher: TeacherBatch | None = None


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


def compute_objective(
    model: Callable[..., StudentOutput], batch: TrainingBatch, config: StudentConfig, num_utterances: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum that training minimises, and its unweighted terms by name, scalars in float32.

    model : `Bert2CTC` or a wrapper of it, such as DistributedDataParallel
    num_utterances : of the global batch (all ranks and accumulation steps); every term is a sum over
        tokens or units divided by it. Raises StudentError where terms and weights do not match.
    """
    piece_inputs = None if batch.decoder is None else batch.decoder.piece_inputs
    output = model(batch.features, batch.frame_lengths, piece_inputs)
    terms = objective_terms(output, batch, config, num_utterances)
    return combine(terms, objective_weights(config)), terms


def objective_weights(config: StudentConfig) -> dict[str, float]:
    """The positive weights by term name, from

    L     = c L_ctc + (1 - c) L_att
    L_ctc = (1 - w) CTC(final) + w mean over taps CTC(tap)
    L_att = mean over taps and final of (1 - a) CE + a KD
    """
    objective, taps = config.objective, config.conformer.taps
    c, w, a = objective.ctc_weight, objective.intermediate_ctc_weight, objective.distillation_weight
    if w > 0 and not taps:
        raise StudentError(f"intermediate_ctc_weight {w} needs conformer.taps; name some or set it to 0")
    if w == 1:
        raise StudentError("intermediate_ctc_weight 1 leaves the final layer untrained; stay below 1")
    weights = {"ctc": c * (1 - w)}
    weights.update({f"ctc_tap{tap}": c * w / len(taps) for tap in taps})
    places = [f"tap{tap}" for tap in taps if objective.attention_on_taps] + ["final"]
    for place in places:
        weights[f"ce_{place}"] = (1 - c) * (1 - a) / len(places)
        weights[f"kd_{place}"] = (1 - c) * a / len(places)
    return {name: weight for name, weight in weights.items() if weight > 0}


def combine(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The weighted sum; every term needs a positive weight and every positive weight its term."""
    expected = {name for name, weight in weights.items() if weight > 0}
    if terms.keys() != expected:
        raise StudentError(
            f"terms without a weight: {sorted(terms.keys() - expected)}, weights without a term: "
            f"{sorted(expected - terms.keys())}; the batch and [objective] disagree"
        )
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


def objective_terms(
    output: StudentOutput, batch: TrainingBatch, config: StudentConfig, num_utterances: float
) -> dict[str, Tensor]:
    """The unweighted terms of a forward pass: ctc, ctc_tap<k>, ce_final, ce_tap<k>, kd_final, kd_tap<k>.

    A term appears for every layer that the output holds, KD where the batch holds a teacher.
    """
    objective, final = config.objective, config.conformer.num_layers
    terms = {
        "ctc" if layer == final else f"ctc_tap{layer}": ctc_loss(
            logits, output.frame_lengths, batch.units, batch.unit_lengths
        )
        for layer, logits in output.ctc_logits.items()
    }
    for layer, logits in output.decoder_logits.items():
        assert batch.decoder is not None
        place, teacher = "final" if layer == final else f"tap{layer}", batch.decoder.teacher
        logits = logits.float()  # once for both terms; bfloat16 sums are not exact enough
        if objective.distillation_weight < 1:
            terms[f"ce_{place}"] = smoothed_cross_entropy(
                logits, batch.decoder.piece_targets, objective.label_smoothing
            )
        if teacher is not None:
            terms[f"kd_{place}"] = distillation_loss(
                logits[:, :-1],
                teacher.top_indices,
                teacher.top_logprobs,
                teacher.tail_logprob if objective.tail == "bucket" else None,
                token_mask(batch.decoder.token_lengths, logits.shape[1] - 1),
                objective.temperature,
            )
    return {name: term / num_utterances for name, term in terms.items()}


def token_mask(token_lengths: Tensor, num_tokens: int) -> Tensor:
    """True on real tokens, (B, num_tokens) bool."""
    return torch.arange(num_tokens, device=token_lengths.device) < token_lengths.unsqueeze(1)
