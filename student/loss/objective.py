"""What training minimises: named terms from `student.loss.losses`, and the one table that weighs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from student.config import StudentConfig
from student.data.batch import TrainingBatch
from student.errors import StudentError
from student.loss.alignment import alignment_losses
from student.loss.losses import ctc_loss
from student.loss.sliced_losses import piece_losses, piece_rows
from student.model.outputs import StudentOutput


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

    L     = c L_ctc + (1 - c) L_branch
    L_ctc = (1 - w) CTC(final) + w mean over taps CTC(tap)
    L_branch = mean over taps and final of (1 - a) HARD + a KD

    where HARD is the smoothed cross-entropy of an attention decoder ("ce"), or the CTC of an alignment
    head over the teacher's pieces ("ctc_pieces").
    """
    objective, taps = config.objective, config.conformer.taps
    c, w, a = objective.ctc_weight, objective.intermediate_ctc_weight, objective.distillation_weight
    weights = {"ctc": c * (1 - w)}
    weights.update({f"ctc_tap{tap}": c * w / len(taps) for tap in taps})
    places = [f"tap{tap}" for tap in taps if objective.branch_on_taps] + ["final"]
    hard = "ctc_pieces" if objective.branch == "alignment" else "ce"
    for place in places:
        weights[f"{hard}_{place}"] = (1 - c) * (1 - a) / len(places)
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
    for layer, scores in output.piece_scores.items():
        assert batch.decoder is not None
        if rows is not None:
            losses = piece_losses(scores, rows, objective, config.decoder.logits_megabytes)
        else:
            losses = alignment_losses(scores, output.frame_lengths, batch.decoder, objective)
        place = "final" if layer == final else f"tap{layer}"
        terms.update({f"{name}_{place}": loss for name, loss in losses.items()})
    return {name: term / num_utterances for name, term in terms.items()}
