"""The control's losses: CTC over the teacher's pieces, distillation at the frames of its forced alignment.

Futami et al. 2022 (arXiv 2209.02030) teach a CTC model so: the best path of the transcript says which frames
carry which token, and those frames learn the teacher's distribution of that token. Here the head is a branch
beside the CTC units, thrown away like the attention decoders, so that the two differ in nothing else.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torchaudio.functional import forced_align

from student.config import ObjectiveConfig
from student.data.batch import DecoderBatch
from student.loss.losses import distillation_divergence
from student.model.outputs import PieceScores

BLANK_INDEX = 0  # where an attention decoder has <eos>


class AlignedFrames(NamedTuple):
    """The frames of a best path that carry a token, N of them.

    frames : int64 (N,), into the flattened (B, T')     tokens : int64 (N,), into the flattened (B, U)
    shares : float32 (N,), one over the frames that the token has, so that every token counts once
    """

    frames: Tensor
    tokens: Tensor
    shares: Tensor


def alignment_losses(
    scores: PieceScores, frame_lengths: Tensor, batch: DecoderBatch, objective: ObjectiveConfig
) -> dict[str, Tensor]:
    """CTC over the pieces, "ctc_pieces", and the distillation at aligned frames, "kd"; summed, in nats.

    scores : states (B, T', D)     frame_lengths : int64 (B,)
    A piece that is no output (on dev alone) is left out of the transcript. The teacher gives blank no
    probability, so that a frame that carries a token pays for its blank whatever `tail` says.
    As in any CTC the logits of all frames are held at once: decoder.logits_megabytes does not bind here.
    """
    num_tokens = batch.piece_targets.shape[1] - 1
    tokens = batch.piece_targets[:, :num_tokens]
    is_known = tokens > BLANK_INDEX
    pieces = [row[known] for row, known in zip(tokens, is_known, strict=True)]
    log_probs = scores.logits().float().log_softmax(-1)
    losses = {
        "ctc_pieces": functional.ctc_loss(
            log_probs.transpose(0, 1),
            pad_sequence(pieces, batch_first=True),
            frame_lengths,
            is_known.sum(1),
            reduction="sum",
        )
    }
    if batch.teacher is None:
        return losses
    aligned = aligned_frames(log_probs.detach(), frame_lengths, pieces, is_known)
    scaled = log_probs.flatten(0, 1)[aligned.frames] / objective.temperature
    spoken = scaled[:, BLANK_INDEX + 1 :]
    tail = batch.teacher.tail_logprob.flatten()[aligned.tokens] if objective.tail == "bucket" else None
    divergence = distillation_divergence(
        spoken,
        (batch.teacher.top_indices.flatten(0, 1)[aligned.tokens] - 1).clamp(min=0),
        batch.teacher.top_logprobs.flatten(0, 1)[aligned.tokens],
        tail,
    )
    blank = scaled.logsumexp(-1) - spoken.logsumexp(-1)  # -log(1 - p(blank))
    losses["kd"] = objective.temperature**2 * (aligned.shares * (divergence + blank)).sum()
    return losses


def aligned_frames(
    log_probs: Tensor, frame_lengths: Tensor, pieces: list[Tensor], is_known: Tensor
) -> AlignedFrames:
    """Which frames carry which token on the best path of each transcript under `log_probs` (B, T', P).

    pieces : of each utterance, int64, none of them blank     is_known : bool (B, U), True at their positions
    """
    num_frames, num_tokens = log_probs.shape[1], is_known.shape[1]
    found: list[AlignedFrames] = []
    for index, own in enumerate(pieces):
        if not len(own):
            continue
        real = log_probs[index : index + 1, : int(frame_lengths[index])]
        path = forced_align(real, own.unsqueeze(0), blank=BLANK_INDEX)[0][0].long()
        is_token = path != BLANK_INDEX
        begins = is_token & (path != functional.pad(path, (1, 0), value=BLANK_INDEX)[:-1])
        number = begins.cumsum(0)[is_token] - 1
        positions = is_known[index].nonzero().squeeze(1)
        found.append(
            AlignedFrames(
                index * num_frames + is_token.nonzero().squeeze(1),
                index * num_tokens + positions[number],
                1.0 / torch.bincount(number)[number],
            )
        )
    if not found:
        nothing = torch.zeros(0, dtype=torch.int64, device=log_probs.device)
        return AlignedFrames(nothing, nothing, nothing.float())
    return AlignedFrames(*(torch.cat(parts) for parts in zip(*found, strict=True)))
