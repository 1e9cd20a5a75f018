"""The teacher's candidates and all else, against plain PyTorch over the whole vocabulary."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from student.loss.candidates import candidates_and_rest

R, V = 4, 7


def drawn(k: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, k indices a row, and which of them are candidates; filling may point at a candidate."""
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(R, V, generator=random, dtype=torch.float64)
    indices = torch.rand(R, V, generator=random).argsort(-1)[:, :k]
    is_candidate = torch.rand(R, k, generator=random) < 0.7
    pointing = indices[:, :1].expand_as(indices)
    is_candidate[:, 0] |= ~is_candidate.any(-1)
    return logits, torch.where(is_candidate, indices, pointing), is_candidate


def plainly(
    logits: Tensor, indices: Tensor, is_candidate: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Position by position."""
    top = torch.full(indices.shape, -torch.inf, dtype=logits.dtype)
    rest = []
    for row, scores in enumerate(logits / temperature):
        taken = indices[row][is_candidate[row]].tolist()
        top[row, is_candidate[row]] = scores[taken]
        others = [scores[piece] for piece in range(V) if piece not in taken]
        rest.append(torch.stack(others).logsumexp(0) if others else torch.tensor(-torch.inf).double())
    return top, torch.stack(rest)


@given(k=st.integers(1, V), seed=st.integers(0, 1000), temperature=st.sampled_from([0.5, 1.0, 2.0]))
def test_scores_and_gradients_are_those_of_the_plain_sums(k: int, seed: int, temperature: float) -> None:
    logits, indices, is_candidate = drawn(k, seed)
    gradients = []
    for function in (candidates_and_rest, plainly):
        own = logits.clone().requires_grad_()
        top, rest = function(own, indices, is_candidate, temperature)
        weighed = [*top[is_candidate], *rest[rest > -torch.inf]]
        sum(weight * score for weight, score in enumerate(weighed, 1)).backward()  # type: ignore[union-attr]
        gradients.append((top.detach(), rest.detach(), own.grad))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_logits_are_left_as_they_were_and_their_gradient_has_their_dtype(dtype: torch.dtype) -> None:
    logits, indices, is_candidate = drawn(3, 1)
    own = logits.to(dtype).requires_grad_()
    before = own.detach().clone()
    top, rest = candidates_and_rest(own, indices, is_candidate)
    assert top.dtype == rest.dtype == torch.float32
    rest.sum().backward()
    assert torch.equal(own, before)
    assert own.grad is not None and own.grad.dtype == dtype


def test_a_backward_pass_may_be_made_twice() -> None:
    logits, indices, is_candidate = drawn(3, 2)
    own = logits.requires_grad_()
    _, rest = candidates_and_rest(own, indices, is_candidate)
    (first,) = torch.autograd.grad(rest.sum(), own, retain_graph=True)
    (second,) = torch.autograd.grad(rest.sum(), own)
    assert torch.equal(first, second)


def test_far_scores_neither_overflow_nor_vanish() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0, 1.0]], requires_grad=True)
    everything = torch.ones(1, 1, dtype=torch.bool)
    top, rest = candidates_and_rest(logits, torch.zeros(1, 1, dtype=torch.int64), everything)
    assert top.item() == 1e4
    assert rest.item() == pytest.approx(1.3132617)
    rest.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 0.0, 0.26894142, 0.7310586]]))
