"""Which frames each CTC unit of a transcript was spoken in, and so which a decoder's token may attend to.

A soft forced alignment: the occupation probabilities of CTC's forward-backward recursion (Graves et al.
2006, section 4.1), which PyTorch computes for a whole batch at once on every device. A unit is spoken in the
frame where it is likeliest. Unlike a best path it says something sensible of a model that knows nothing yet:
units then lie evenly spread.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from student.model.masks import length_mask


class UnitFrames(NamedTuple):
    """frames : int64 (B, L), the frame of each unit, any on padding     is_aligned : bool (B,)"""

    frames: Tensor
    is_aligned: Tensor


def unit_frames(logits: Tensor, frame_lengths: Tensor, units: Tensor, unit_lengths: Tensor) -> UnitFrames:
    """The likeliest frame of each unit of the transcripts; neither gradient nor state.

    logits : (B, T', num_units), blank id 0     units : int64 (B, L), any value as padding
    Neighbouring equal units share a frame: their posteriors cannot be told apart by unit, and they lie in
    one word. An utterance with more units and repeats than frames is not aligned.
    """
    with torch.inference_mode(False), torch.enable_grad():
        log_probs = logits.detach().clone().float().log_softmax(-1)
        mask = length_mask(unit_lengths, units.shape[1])
        # every run of equal units gets a class of its own, in place of the units' inventory
        own = units.masked_fill(~mask, 0)
        begins = torch.ones_like(mask)
        begins[:, 1:] = own[:, 1:] != own[:, :-1]
        runs = begins.cumsum(1)
        of_run = functional.pad(torch.zeros_like(own), (1, 0)).scatter(1, runs, own)  # class 0: the blank
        spread = log_probs.gather(2, of_run.unsqueeze(1).expand(-1, log_probs.shape[1], -1))
        spread = spread.detach().transpose(0, 1).requires_grad_()
        losses = functional.ctc_loss(
            spread, runs, frame_lengths, unit_lengths, reduction="none", zero_infinity=False
        )
        is_aligned = losses.detach().isfinite()
        total = losses.masked_fill(~is_aligned, 0.0).sum()
        (gradient,) = torch.autograd.grad(total, spread)
    # PyTorch's gradient is that of the logits behind a softmax: probability less posterior
    occupation = (spread.detach().exp() - gradient).transpose(0, 1)
    mask = length_mask(frame_lengths, occupation.shape[1])
    occupation = occupation.masked_fill(~mask.unsqueeze(2), -1.0)
    frames = occupation.argmax(1).gather(1, runs)
    return UnitFrames(frames, is_aligned)


def windows(
    aligned: UnitFrames,
    unit_spans: Tensor,
    frame_lengths: Tensor,
    num_frames: int,
    margin: int,
    from_previous: bool = False,
) -> Tensor:
    """True where a token may attend, bool (B, U + 1, T'): the frames of its units and `margin` around.

    unit_spans : int64 (B, U + 1, 2), [start, stop)     frame_lengths : int64 (B,)
    from_previous : a window begins behind the last frame of the unit before it
    A token whose span is empty or whose utterance is not aligned attends to every real frame.
    """
    position = torch.arange(num_frames, device=frame_lengths.device)
    mask = length_mask(frame_lengths, num_frames).unsqueeze(1)
    start, stop = unit_spans.unbind(2)
    is_known = (stop > start) & aligned.is_aligned.unsqueeze(1)
    last_unit = aligned.frames.shape[1] - 1
    first = aligned.frames.gather(1, start.clamp(0, last_unit))
    last = aligned.frames.gather(1, (stop - 1).clamp(0, last_unit))
    if from_previous:
        before = aligned.frames.gather(1, (start - 1).clamp(0, last_unit)) + 1
        first = torch.where(start > 0, torch.minimum(before, first), torch.zeros_like(first))
    low, high = torch.minimum(first, last) - margin, torch.maximum(first, last) + margin
    inside = (position >= low.unsqueeze(2)) & (position <= high.unsqueeze(2))
    return mask & (inside | ~is_known.unsqueeze(2))


def scaled_to(aligned: UnitFrames, frame_lengths: Tensor, other_lengths: Tensor) -> UnitFrames:
    """The alignment stretched to utterances of other lengths: the same share of the time."""
    ratio = other_lengths.double() / frame_lengths.double().clamp(min=1)
    frames = (aligned.frames.double() * ratio.unsqueeze(1)).long()
    return UnitFrames(torch.minimum(frames, other_lengths.unsqueeze(1) - 1), aligned.is_aligned)
