"""A student's scores at the teacher's candidates and of all else: what distilling over a vocabulary needs.

Autograd alone would write a tensor of the vocabulary's size a dozen times and more, forward and backward;
here one is changed in place and kept, and one more is the gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def candidates_and_rest(
    logits: Tensor, top_indices: Tensor, is_candidate: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """logits / temperature at the candidates, (..., k), and the log-sum-exp of all the others, (...).

    logits : (..., V)     top_indices : int64 (..., k)     is_candidate : bool (..., k), False: filling,
    whose score is -inf and whose index, wherever it points, takes nothing from the rest
    In float32, or float64 where the logits are. -inf is the rest of a position whose candidates are all V.
    """
    scores: tuple[Tensor, Tensor] = _CandidatesAndRest.apply(  # type: ignore[no-untyped-call]
        logits, top_indices, is_candidate, temperature
    )
    return scores


class _CandidatesAndRest(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, logits: Tensor, top_indices: Tensor, is_candidate: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """As above."""
        # one tensor, changed in place until it holds the numerators of the others' softmax
        others = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
        if temperature != 1:
            others.div_(temperature)
        top = others.gather(-1, top_indices).masked_fill_(~is_candidate, -torch.inf)
        # adding -inf, not writing it: an index may appear as a candidate and again as filling
        others.scatter_add_(-1, top_indices, torch.zeros_like(top).masked_fill_(is_candidate, -torch.inf))
        # where nothing is left, -inf less a finite number is no NaN
        highest = others.amax(-1, keepdim=True).clamp_(min=torch.finfo(others.dtype).min)
        total = others.sub_(highest).exp_().sum(-1, keepdim=True)
        context.save_for_backward(others, total, top_indices, is_candidate)
        context.dtype, context.temperature = logits.dtype, temperature
        return top, (total.log() + highest).squeeze(-1)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        """Of the logits: the others share the rest's gradient by their softmax, candidates have their own."""
        others, total, top_indices, is_candidate = context.saved_tensors
        for_top, for_rest = (gradient / context.temperature for gradient in gradients)
        share = (for_rest.unsqueeze(-1) / total).masked_fill_(total == 0, 0.0)
        gradient = others * share
        gradient.scatter_add_(-1, top_indices, for_top.masked_fill_(~is_candidate, 0.0))
        return gradient.to(context.dtype), None, None, None
