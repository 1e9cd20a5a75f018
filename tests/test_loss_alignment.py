"""The control: which frames carry which token, and what those frames learn."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from student.config import ObjectiveConfig
from student.data.batch import DecoderBatch, TeacherBatch
from student.loss.alignment import BLANK_INDEX, aligned_frames, alignment_losses
from student.model.outputs import PieceScores

PIECES, CANDIDATES = 6, 3
ALIGNED = ObjectiveConfig(branch="alignment")


def collapsed(path: tuple[int, ...]) -> list[int]:
    """What CTC reads from a path."""
    return [
        label
        for index, label in enumerate(path)
        if label != BLANK_INDEX and (index == 0 or path[index - 1] != label)
    ]


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.integers(0, 10_000),
)
def test_the_best_path_is_that_of_a_search_through_every_path(pieces: list[int], seed: int) -> None:
    num_frames = 6
    log_probs = torch.randn(1, num_frames, 4, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    paths = [path for path in product(range(4), repeat=num_frames) if collapsed(path) == pieces]
    best = max(paths, key=lambda path: float(log_probs[0, torch.arange(num_frames), list(path)].sum()))
    aligned = aligned_frames(
        log_probs, torch.tensor([num_frames]), [torch.tensor(pieces)], torch.ones(1, len(pieces)).bool()
    )
    assert aligned.frames.tolist() == [frame for frame, label in enumerate(best) if label != BLANK_INDEX]
    assert [pieces[token] for token in aligned.tokens] == [label for label in best if label != BLANK_INDEX]
    shares = np.bincount(aligned.tokens.numpy(), weights=aligned.shares.numpy())
    np.testing.assert_allclose(shares, 1)  # every token counts once, however long it lasts


def batch_of(targets: list[list[int]], temperature: float = 1.0) -> DecoderBatch:
    """Transcripts in output indices, -100 where unknown, with a teacher over three candidates."""
    random = torch.Generator().manual_seed(4)
    width = max(map(len, targets))
    padded = torch.full((len(targets), width + 1), -100)
    for row, pieces in enumerate(targets):
        padded[row, : len(pieces) + 1] = torch.tensor([*pieces, 0])
    scores = torch.randn(len(targets), width, PIECES, generator=random) / temperature
    scores[..., BLANK_INDEX] = -torch.inf
    logprobs, indices = scores.log_softmax(-1).topk(CANDIDATES)
    tail = scores.log_softmax(-1).exp().sum(-1) - logprobs.exp().sum(-1)
    lengths = torch.tensor([len(pieces) for pieces in targets])
    return DecoderBatch(padded.clamp(min=0), padded, lengths, TeacherBatch(indices, logprobs, tail.log()))


def scores_of(num_utterances: int = 2, num_frames: int = 9) -> PieceScores:
    """States that are the logits themselves."""
    random = torch.Generator().manual_seed(5)
    states = torch.randn(num_utterances, num_frames, PIECES, generator=random).requires_grad_()
    return PieceScores(states, torch.eye(PIECES), torch.zeros(PIECES))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("tail", ["bucket", "renormalise"])
def test_aligned_frames_are_compared_over_every_output_with_blank_as_an_impossible_one(
    tail: str, temperature: float
) -> None:
    objective = ObjectiveConfig(branch="alignment", tail=tail, temperature=temperature)
    batch, scores, lengths = batch_of([[2, 2, 4], [5]]), scores_of(), torch.tensor([9, 6])
    assert batch.teacher is not None
    losses = alignment_losses(scores, lengths, batch, objective)
    log_probs = scores.logits().log_softmax(-1)
    known = batch.piece_targets[:, :3] > 0
    pieces = [torch.tensor([2, 2, 4]), torch.tensor([5])]
    aligned = aligned_frames(log_probs.detach(), lengths, pieces, known)
    expected = 0.0
    for frame, token, share in zip(*(part.tolist() for part in aligned), strict=True):
        student = (log_probs.flatten(0, 1)[frame] / temperature).softmax(-1)
        top = batch.teacher.top_logprobs.flatten(0, 1)[token].exp()
        at = batch.teacher.top_indices.flatten(0, 1)[token]
        if tail == "bucket":
            rest = float(batch.teacher.tail_logprob.flatten()[token].exp())
            others = 1 - student[at].sum() - student[BLANK_INDEX]
            divergence = (top * (top / student[at]).log()).sum() + rest * (rest / others).log()
        else:
            top = top / top.sum()
            divergence = (top * (top / student[at]).log()).sum()
        expected += share * temperature**2 * float(divergence.detach())
    assert float(losses["kd"].detach()) == pytest.approx(expected, rel=1e-4)


def test_a_head_that_agrees_with_its_teacher_learns_nothing_more() -> None:
    """Frames in turn a token and a blank, tokens distributed as the teacher says."""
    batch = batch_of([[1, 3, 5]])
    teacher = batch.teacher
    assert teacher is not None
    logits = torch.full((1, 6, PIECES), -40.0)
    logits[0, 1::2, BLANK_INDEX] = 40.0
    everything = teacher.tail_logprob[0, :, None].expand(3, PIECES).clone() - np.log(PIECES - 1 - CANDIDATES)
    everything[:, BLANK_INDEX] = -40.0
    everything.scatter_(1, teacher.top_indices[0], teacher.top_logprobs[0])
    logits[0, 0::2] = everything
    for token, piece in enumerate((1, 3, 5)):  # where the path cannot choose, the token is its frame's best
        logits[0, 2 * token, piece] = everything[token, piece]
    states = logits.requires_grad_()
    scores = PieceScores(states, torch.eye(PIECES), torch.zeros(PIECES))
    losses = alignment_losses(scores, torch.tensor([6]), batch, ALIGNED)
    assert float(losses["kd"].detach()) == pytest.approx(0, abs=1e-5)
    (gradient,) = torch.autograd.grad(losses["kd"], states)
    assert gradient.abs().max() < 1e-5


def test_padding_frames_and_unknown_pieces_take_no_part() -> None:
    lengths = torch.tensor([9, 6])
    losses = alignment_losses(scores_of(), lengths, batch_of([[2, 2, 4], [5]]), ALIGNED)
    wild = scores_of()
    wild.states.data[1, 6:] = 50.0
    again = alignment_losses(wild, lengths, batch_of([[2, 2, 4], [5]]), ALIGNED)
    torch.testing.assert_close(losses, again)
    with_unknown, known_alone = (
        alignment_losses(scores_of(), lengths, batch_of([first, [5]]), ALIGNED)["ctc_pieces"]
        for first in ([2, -100, 4], [2, 4])
    )
    torch.testing.assert_close(with_unknown, known_alone)


@pytest.mark.parametrize("targets", [[[-100], [-100]], [[2], [-100]]])
def test_a_transcript_without_a_known_piece_is_no_error(targets: list[list[Any]]) -> None:
    scores = scores_of()
    losses = alignment_losses(scores, torch.tensor([9, 6]), batch_of(targets), ALIGNED)
    (gradient,) = torch.autograd.grad(torch.stack(list(losses.values())).sum(), scores.states)
    assert gradient.isfinite().all() and gradient[0, 6:].abs().max() > 0
