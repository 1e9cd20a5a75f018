"""What training minimises: named terms from `student.loss.losses`, and the one table that weighs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from student.config import DecoderConfig, StudentConfig
from student.data.batch import TrainingBatch
from student.errors import StudentError
from student.loss.alignment import alignment_losses
from student.loss.losses import ctc_loss
from student.loss.sliced_losses import piece_losses, piece_rows
from student.loss.unit_alignment import scaled_to, unit_frames, windows
from student.model.outputs import StudentOutput, layer_name


@dataclass(frozen=True, slots=True)
class Objective:
    """What a batch gives training.

    loss : the weighted sum that training minimises     terms : its unweighted terms by name
    unaligned : of the batch's utterances, how many have no alignment and are attended freely
    output : of the model
    """

    loss: Tensor
    terms: dict[str, Tensor]
    unaligned: Tensor
    output: StudentOutput


def compute_objective(
    model: Callable[..., StudentOutput],
    batch: TrainingBatch,
    config: StudentConfig,
    num_utterances: float,
    branch_scale: float = 1.0,
    has_branch: bool = True,
) -> Objective:
    """The weighted sum that training minimises, and its unweighted terms by name, scalars in float32.

    model : `Bert2CTC` or a wrapper of it, such as DistributedDataParallel
    num_utterances : of the global batch (all ranks and accumulation steps); every term is a sum over
        tokens or units divided by it     branch_scale, has_branch : as in `objective_weights`
    Raises StudentError where terms and weights do not match.
    """
    output, unaligned = run_model(model, batch, config)
    terms = objective_terms(output, batch, config, num_utterances)
    loss = combine(terms, objective_weights(config, branch_scale, has_branch))
    return Objective(loss, terms, unaligned, output)


def run_model(
    model: Callable[..., StudentOutput], batch: TrainingBatch, config: StudentConfig
) -> tuple[StudentOutput, Tensor]:
    """The model on a batch, and how many of its utterances have no alignment and are attended freely."""
    if batch.decoder is None:
        return model(batch.features, batch.frame_lengths), torch.zeros((), device=batch.features.device)
    unaligned = torch.zeros((), device=batch.features.device)

    def windows_of(logits: Tensor, frame_lengths: Tensor) -> Tensor:
        nonlocal unaligned
        attended = attended_frames(logits, frame_lengths, batch, config.decoder)
        unaligned = (~attended.is_aligned).sum()
        return attended.windows

    is_free = batch.decoder.unit_spans is None
    inputs = batch.decoder.piece_inputs
    return model(batch.features, batch.frame_lengths, inputs, None if is_free else windows_of), unaligned


class Attended(NamedTuple):
    """windows : bool (B, U + 1, T'), True where a token may attend     is_aligned : bool (B,)"""

    windows: Tensor
    is_aligned: Tensor


def attended_frames(
    logits: Tensor,
    frame_lengths: Tensor,
    batch: TrainingBatch,
    config: DecoderConfig,
    other_lengths: Tensor | None = None,
) -> Attended:
    """Where each token of the batch may attend, and which utterances have an alignment.

    logits : of the final layer, (B, T', num_units), detached here     frame_lengths : int64 (B,)
    other_lengths : of the utterances to whose length the windows are stretched
    """
    assert batch.decoder is not None and batch.decoder.unit_spans is not None
    spans = batch.decoder.unit_spans
    aligned = unit_frames(logits, frame_lengths, batch.units, batch.unit_lengths)
    if other_lengths is not None:
        aligned, frame_lengths = scaled_to(aligned, frame_lengths, other_lengths), other_lengths
    mask = windows(
        aligned, spans, frame_lengths, logits.shape[1], config.window_frames, config.window_from_previous
    )
    return Attended(mask, aligned.is_aligned & (spans[:, 0, 1] > spans[:, 0, 0]))


def objective_weights(
    config: StudentConfig, branch_scale: float = 1.0, has_branch: bool = True
) -> dict[str, float]:
    """The positive weights by term name, from

    L     = c L_ctc + (1 - c) L_branch
    L_ctc = (1 - w) CTC(final) + w mean over taps CTC(tap)
    L_branch = mean over taps and final of (1 - a) HARD + a KD

    where HARD is the smoothed cross-entropy of an attention decoder ("ce"), or the CTC of an alignment
    head over the teacher's pieces ("ctc_pieces"). branch_scale multiplies L_branch; without a branch, as
    before objective.branch_from_step, c is 1.
    """
    objective, taps = config.objective, config.conformer.taps
    c, w, a = objective.ctc_weight, objective.intermediate_ctc_weight, objective.distillation_weight
    c = c if has_branch else 1.0
    weights = {"ctc": c * (1 - w)}
    weights.update({f"ctc_tap{tap}": c * w / len(taps) for tap in taps})
    heads = [f"tap{tap}" for tap in taps if objective.branch_on_taps] + ["final"]
    hard = "ctc_pieces" if objective.branch == "alignment" else "ce"
    for head in heads:
        weights[f"{hard}_{head}"] = branch_scale * (1 - c) * (1 - a) / len(heads)
        weights[f"kd_{head}"] = branch_scale * (1 - c) * a / len(heads)
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
    """The unweighted terms of a forward pass by name, as in `objective_weights`.

    A term appears for every layer that the output holds, KD where the batch holds a teacher.
    """
    objective, final = config.objective, config.conformer.num_layers
    terms = {
        "ctc" if layer == final else f"ctc_tap{layer}": ctc_loss(
            logits, output.frame_lengths, batch.units, batch.unit_lengths
        )
        for layer, logits in output.ctc_logits.items()
    }
    if output.piece_scores and batch.decoder is None:
        raise StudentError("the model heard pieces that the batch does not hold; pass both or neither")
    rows = piece_rows(batch.decoder) if batch.decoder and objective.branch == "attention" else None
    cast = cache(_as_autocast_has_it)  # once for all layers: autocast remembers the casts of parameters alone
    for layer, scores in output.piece_scores.items():
        assert batch.decoder is not None
        of_teacher, megabytes = output.teacher_scores[layer], config.decoder.logits_megabytes
        hard, soft = (one._replace(weight=cast(one.weight)) for one in (scores, of_teacher))
        if rows is None:
            losses = alignment_losses(hard, output.frame_lengths, batch.decoder, objective)
        elif of_teacher is scores:
            losses = piece_losses(hard, rows, objective, megabytes)
        else:
            losses = piece_losses(hard, rows, objective, megabytes, ["ce"])
            losses |= piece_losses(soft, rows, objective, megabytes, ["kd"])
        terms.update({f"{name}_{layer_name(layer, final)}": loss for name, loss in losses.items()})
    return {name: term / num_utterances for name, term in terms.items()}


def _as_autocast_has_it(weight: Tensor) -> Tensor:
    kind = weight.device.type
    return weight.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else weight
