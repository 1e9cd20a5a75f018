"""Losses as pure functions of tensors: sums over tokens, so that the caller divides by a global count."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from student.loss.candidates import candidates_and_rest


def ctc_loss(logits: Tensor, frame_lengths: Tensor, units: Tensor, unit_lengths: Tensor) -> Tensor:
    """Connectionist temporal classification (Graves et al. 2006), in nats, summed over utterances.

    logits : (B, T', num_units), blank id 0     frame_lengths, unit_lengths : int64 (B,)
    units : int64 (B, L)
    Infinite where an utterance has more units and repeats than frames: the dataset leaves those out.
    """
    log_probs = functional.log_softmax(logits.float(), dim=-1).transpose(0, 1)
    return functional.ctc_loss(log_probs, units, frame_lengths, unit_lengths, reduction="sum")


def smoothed_cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy against (1 - s) of the target and s spread evenly over all V outputs, in nats, summed.

    logits : (..., V)     targets : int64 (...), -100 as padding
    """
    return functional.cross_entropy(
        logits.float().flatten(0, -2),
        targets.flatten(),
        ignore_index=-100,
        reduction="sum",
        label_smoothing=label_smoothing,
    )


def distillation_loss(
    logits: Tensor,
    top_indices: Tensor,
    top_logprobs: Tensor,
    tail_logprob: Tensor | None,
    mask: Tensor,
    temperature: float,
) -> Tensor:
    """T^2 KL(teacher || student) in nats, summed over tokens, the teacher known by its top k and a tail.

    mask : bool (...), True on real tokens; the others as `distillation_divergence` takes them
    T^2 keeps gradients on the scale of the hard labels' (Hinton et al. 2015, section 2). 0 with a live
    graph where the mask is empty.
    """
    divergence = distillation_divergence(logits, top_indices, top_logprobs, tail_logprob, temperature)
    return temperature**2 * divergence.masked_fill(~mask, 0.0).sum()


def distillation_divergence(
    logits: Tensor,
    top_indices: Tensor,
    top_logprobs: Tensor,
    tail_logprob: Tensor | None,
    temperature: float = 1.0,
) -> Tensor:
    """KL(teacher || student) of each position, in nats, float32 (...).

    logits : (..., V), of the student, to be divided by the temperature     top_indices : int64 (..., k)
    top_logprobs : (..., k), the teacher's at this temperature; -inf: no candidate, contributes 0
    tail_logprob : (...), the teacher's mass elsewhere, compared as one bucket with the student's mass
        on all its other outputs; None renormalises the teacher over its candidates instead
    The student is always normalised over all V.
    """
    top, rest = candidates_and_rest(logits, top_indices, top_logprobs > -torch.inf, temperature)
    student = torch.cat((top, rest.unsqueeze(-1)), dim=-1).log_softmax(-1)
    if tail_logprob is None:
        teacher, student = _renormalised(top_logprobs), student[..., :-1]
    else:
        teacher = torch.cat((top_logprobs, tail_logprob.unsqueeze(-1)), dim=-1)
    has_mass = teacher > -torch.inf
    difference = teacher.masked_fill(~has_mass, 0.0) - student.masked_fill(~has_mass, 0.0)
    divergence: Tensor = (teacher.exp() * difference).sum(-1)
    return divergence


def _renormalised(logprobs: Tensor) -> Tensor:
    """Log-probs that sum to one over the last axis; all -inf stays so."""
    total = logprobs.logsumexp(-1, keepdim=True)
    return logprobs - total.masked_fill(total == -torch.inf, 0.0)
