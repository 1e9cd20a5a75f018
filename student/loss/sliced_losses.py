"""Losses over the teacher's pieces, a slice of positions at a time: logits never outgrow their budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from student.config import ObjectiveConfig
from student.data.batch import DecoderBatch
from student.loss.losses import distillation_loss, smoothed_cross_entropy
from student.model.masks import length_mask
from student.model.outputs import PieceScores


@dataclass(frozen=True, slots=True)
class PieceRows:
    """The positions of a batch that are no padding, R of them, utterance by utterance, <eos> included.

    positions : int64 (R,), into the flattened (B, U + 1)     targets : int64 (R,), -100 where unknown
    is_token : bool (R,), False at <eos>     top_indices, top_logprobs, tail_logprob : (R, k), (R, k),
    (R,) of the teacher, whatever at <eos>; None without a teacher
    """

    positions: Tensor
    targets: Tensor
    is_token: Tensor
    top_indices: Tensor | None = None
    top_logprobs: Tensor | None = None
    tail_logprob: Tensor | None = None


def piece_rows(batch: DecoderBatch) -> PieceRows:
    """The rows of a batch, so that padding is neither projected nor compared."""
    size = batch.piece_targets.shape[1]
    positions = length_mask(batch.token_lengths + 1, size).flatten().nonzero().squeeze(1)

    def chosen(grid: Tensor) -> Tensor:
        return grid.flatten(0, 1)[positions]

    is_token = chosen(length_mask(batch.token_lengths, size))
    rows = PieceRows(positions, chosen(batch.piece_targets), is_token)
    if batch.teacher is None:
        return rows
    teacher = batch.teacher
    return PieceRows(
        rows.positions,
        rows.targets,
        rows.is_token,
        chosen(functional.pad(teacher.top_indices, (0, 0, 0, 1))),
        chosen(functional.pad(teacher.top_logprobs, (0, 0, 0, 1), value=-torch.inf)),
        chosen(functional.pad(teacher.tail_logprob, (0, 1), value=-torch.inf)),
    )


def piece_losses(
    scores: PieceScores,
    rows: PieceRows,
    objective: ObjectiveConfig,
    mebibytes: float,
    names: Sequence[str] = ("ce", "kd"),
) -> dict[str, Tensor]:
    """The hard and the soft loss of an attention decoder by name, "ce" and "kd", summed over positions.

    scores : of the whole grid, states (B, U + 1, D)     mebibytes : of the largest tensor of logits
    Each loss that `names` asks for appears where `objective` weighs it, and the soft one where there is a
    teacher. Where several slices are needed, the backward pass projects each again instead of keeping it.
    """
    is_weighed = {"ce": objective.distillation_weight < 1, "kd": rows.top_indices is not None}
    wanted = [name for name, weighed in is_weighed.items() if weighed and name in names]
    if not wanted:
        return {}

    def losses_of(states: Tensor, weight: Tensor, bias: Tensor, part: slice) -> Tensor:
        logits = PieceScores(states, weight, bias).logits()  # in bfloat16, maybe; the losses sum in float32
        losses: dict[str, Callable[[], Tensor]] = {
            "ce": lambda: smoothed_cross_entropy(logits, rows.targets[part], objective.label_smoothing),
            "kd": lambda: _soft_loss(logits, rows, part, objective),
        }
        return torch.stack([losses[name]() for name in wanted])

    slices = list(scores.at(rows.positions).slices(mebibytes))
    total = torch.zeros(len(wanted), device=scores.states.device)
    for part, piece in slices:
        if len(slices) > 1 and torch.is_grad_enabled():
            total = total + checkpoint(losses_of, *piece, part, use_reentrant=False, preserve_rng_state=False)
        else:
            total = total + losses_of(*piece, part)
    return dict(zip(wanted, total, strict=True))


def best_pieces(scores: PieceScores, mebibytes: float) -> Tensor:
    """The likeliest output at each position, int64 (R,), of states (R, D)."""
    return torch.cat([part.logits().argmax(-1) for _, part in scores.slices(mebibytes)])


def _soft_loss(logits: Tensor, rows: PieceRows, part: slice, objective: ObjectiveConfig) -> Tensor:
    assert rows.top_indices is not None and rows.top_logprobs is not None and rows.tail_logprob is not None
    return distillation_loss(
        logits,
        rows.top_indices[part],
        rows.top_logprobs[part],
        rows.tail_logprob[part] if objective.tail == "bucket" else None,
        rows.is_token[part],
        objective.temperature,
    )
