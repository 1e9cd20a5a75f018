"""Losses over pieces: slices equal the whole, padding costs nothing, and no tensor outgrows its budget."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from student.config import ObjectiveConfig
from student.data.batch import DecoderBatch, TeacherBatch
from student.loss.losses import distillation_loss, smoothed_cross_entropy
from student.loss.sliced_losses import best_pieces, piece_losses, piece_rows
from student.model.outputs import PieceScores

BATCH, TOKENS, WIDTH, PIECES, CANDIDATES = 5, 7, 6, 50, 4
LENGTHS = torch.tensor([7, 3, 5, 1, 6])
MEGABYTE = 1 << 20
THREE_ROWS = 3 * 4 * PIECES / MEGABYTE
PLENTY = 64.0


def batch_of(teacher: bool = True) -> DecoderBatch:
    """Lengths 7, 3, 5, 1 and 6; an unknown target within, teachers with missing candidates."""
    random = torch.Generator().manual_seed(2)
    targets = torch.full((BATCH, TOKENS + 1), -100)
    for row, length in enumerate(LENGTHS):
        targets[row, :length] = torch.randint(1, PIECES, (int(length),), generator=random)
        targets[row, length] = 0
    targets[2, 1] = -100
    logprobs, indices = torch.randn(BATCH, TOKENS, PIECES, generator=random).log_softmax(-1).topk(CANDIDATES)
    tail = torch.log1p(-logprobs.exp().sum(-1))
    logprobs[1, 1, 2:] = -torch.inf
    known = torch.arange(TOKENS) < LENGTHS.unsqueeze(1)
    cached = TeacherBatch(indices, logprobs.masked_fill(~known.unsqueeze(2), -torch.inf), tail)
    return DecoderBatch(targets.clamp(min=0), targets, LENGTHS, cached if teacher else None)


def scores_of(dtype: torch.dtype = torch.float64) -> PieceScores:
    random = torch.Generator().manual_seed(3)
    shapes = ((BATCH, TOKENS + 1, WIDTH), (PIECES, WIDTH), (PIECES,))
    return PieceScores(*(torch.randn(*s, generator=random).to(dtype).requires_grad_() for s in shapes))


@pytest.mark.parametrize("tail", ["bucket", "renormalise"])
@pytest.mark.parametrize("megabytes", [1e-9, THREE_ROWS, PLENTY], ids=["row by row", "three rows", "whole"])
def test_slices_give_the_losses_and_gradients_of_the_dense_grid(tail: str, megabytes: float) -> None:
    objective = ObjectiveConfig(distillation_weight=0.5, temperature=2.0, tail=tail)
    scores, batch = scores_of(torch.float32), batch_of()
    assert batch.teacher is not None
    losses = piece_losses(scores, piece_rows(batch), objective, megabytes)
    logits, teacher = scores.logits(), batch.teacher
    dense = {
        "ce": smoothed_cross_entropy(logits, batch.piece_targets, objective.label_smoothing),
        "kd": distillation_loss(
            logits[:, :-1],
            teacher.top_indices,
            teacher.top_logprobs,
            teacher.tail_logprob if tail == "bucket" else None,
            torch.arange(TOKENS) < LENGTHS.unsqueeze(1),
            objective.temperature,
        ),
    }
    for name, expected in dense.items():
        torch.testing.assert_close(losses[name], expected, rtol=1e-5, atol=1e-5)
        actual = torch.autograd.grad(losses[name], scores, retain_graph=True)
        wanted = torch.autograd.grad(expected, scores, retain_graph=True)
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor over the pieces that any operation makes, backward included."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **kwargs or {})
        made = result if isinstance(result, (tuple, list)) else (result,)
        for tensor in made:
            if isinstance(tensor, torch.Tensor) and tensor.ndim > 1 and PIECES in tensor.shape:
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize(("megabytes", "rows"), [(THREE_ROWS, 3), (PLENTY, int((LENGTHS + 1).sum()))])
def test_no_tensor_over_the_pieces_exceeds_the_budget(megabytes: float, rows: int) -> None:
    scores, objective, batch = scores_of(torch.float32), ObjectiveConfig(), batch_of()
    with LargestTensor() as largest:
        rows_of_pieces = piece_rows(batch)
        losses = piece_losses(scores, rows_of_pieces, objective, megabytes)
        torch.stack(list(losses.values())).sum().backward()
        best_pieces(scores.at(rows_of_pieces.positions), megabytes)
    assert largest.elements == max(rows, WIDTH) * PIECES  # or the weights, which are there anyway


def test_padding_is_never_projected() -> None:
    scores, batch = scores_of(torch.float32), batch_of()
    rows = piece_rows(batch)
    assert len(rows.positions) == int((LENGTHS + 1).sum()) and int(rows.is_token.sum()) == int(LENGTHS.sum())
    wild = scores.states.detach().clone()
    wild[torch.arange(TOKENS + 1) > LENGTHS.unsqueeze(1)] = torch.nan
    losses = piece_losses(scores._replace(states=wild), rows, ObjectiveConfig(), PLENTY)
    expected = piece_losses(scores, rows, ObjectiveConfig(), PLENTY)
    assert all(torch.equal(losses[name], expected[name]) for name in ("ce", "kd"))


def test_a_loss_appears_where_it_is_weighed_and_taught() -> None:
    scores, hard = scores_of(torch.float32), ObjectiveConfig(distillation_weight=0.0)
    assert piece_losses(scores, piece_rows(batch_of(teacher=False)), hard, PLENTY).keys() == {"ce"}
    soft = replace(hard, distillation_weight=1.0)
    assert piece_losses(scores, piece_rows(batch_of()), soft, PLENTY).keys() == {"kd"}


def test_the_likeliest_piece_is_found_slice_by_slice() -> None:
    scores = scores_of()
    rows_of_pieces = piece_rows(batch_of()).positions
    expected = scores.logits().argmax(-1).flatten()[rows_of_pieces]
    assert torch.equal(best_pieces(scores.at(rows_of_pieces), THREE_ROWS), expected)
