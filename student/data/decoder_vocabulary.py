"""From the cache's rows to the decoders' tensors: which pieces are outputs, and where other mass goes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from student.config import ObjectiveConfig
from student.data.batch import DecoderBatch, TeacherBatch
from student.errors import StudentError
from teacher_cache.store import TargetsBatch, TeacherTargets

EOS_INDEX = 0  # ends a transcript and begins the decoder's input
NO_TARGET = -100
_FIRST_PIECE = 1

Floats = npt.NDArray[np.float32]


class DecoderVocabulary:
    """The pieces that the decoders know: output 0 is <eos>, output 1 + i is piece i of the teacher's ids.

    piece_ids : ascending, of the teacher     teacher_size : pieces in the teacher's vocabulary
    An input piece outside is `unknown_index`, which is no output; a target outside is not trained on.
    """

    def __init__(self, piece_ids: Sequence[int], teacher_size: int) -> None:
        self.piece_ids = tuple(piece_ids)
        self.teacher_size = teacher_size
        self._index_of = np.full(teacher_size, -1, dtype=np.int64)
        self._index_of[list(piece_ids)] = np.arange(len(piece_ids)) + _FIRST_PIECE

    @property
    def num_outputs(self) -> int:
        """Outputs of a decoder, <eos> included."""
        return len(self.piece_ids) + _FIRST_PIECE

    @property
    def unknown_index(self) -> int:
        """Input id of every piece that is no output."""
        return self.num_outputs

    def batch(
        self,
        targets: TargetsBatch,
        objective: ObjectiveConfig,
        hidden: Sequence[npt.NDArray[np.bool_]] | None = None,
        unit_spans: Sequence[npt.NDArray[np.int64] | None] | None = None,
    ) -> DecoderBatch:
        """Padded decoder inputs and targets of a batch, with the teacher where `objective` reads it.

        hidden : bool (U + 1,) of each, True where an input becomes the unknown piece
        unit_spans : int64 (U + 1, 2) of each, None where pieces and units do not meet
        """
        lengths, pieces = targets.lengths, self._index_of.take(targets.rows.gold_ids)
        is_output = pieces >= 0
        inputs = targets.padded(np.where(is_output, pieces, self.unknown_index), EOS_INDEX)
        inputs = np.pad(inputs, [(0, 0), (1, 0)], constant_values=EOS_INDEX)
        if hidden is not None:
            inputs[_padded(hidden, 0).numpy()] = self.unknown_index
        outputs = targets.padded(np.where(is_output, pieces, NO_TARGET), NO_TARGET)
        outputs = np.pad(outputs, [(0, 0), (0, 1)], constant_values=NO_TARGET)
        outputs[np.arange(len(lengths)), lengths] = EOS_INDEX
        spans = None
        if unit_spans is not None:
            owned = [
                np.zeros((length + 1, 2), dtype=np.int64) if own is None else own
                for own, length in zip(unit_spans, lengths.tolist(), strict=True)
            ]
            spans = _padded(owned, 0)
        return DecoderBatch(
            piece_inputs=torch.from_numpy(inputs),
            piece_targets=torch.from_numpy(outputs),
            token_lengths=torch.from_numpy(lengths),
            teacher=self._teacher_batch(targets, objective.tail) if objective.uses_teacher else None,
            unit_spans=spans,
        )

    def _teacher_batch(self, targets: TargetsBatch, tail: str) -> TeacherBatch:
        indices, logprobs, tails = self.restrict(targets.rows, tail)
        return TeacherBatch(
            torch.from_numpy(targets.padded(indices, 0)),
            torch.from_numpy(targets.padded(logprobs, -np.inf)),
            torch.from_numpy(targets.padded(tails, -np.inf)),
        )

    def restrict(self, target: TeacherTargets, tail: str) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
        """The teacher over the decoders' outputs: indices (U, k), log-probs (U, k), tail log-prob (U,).

        A candidate that is no output gets log-prob -inf at index 0; its mass joins the tail, or under
        "renormalise" is spread over the candidates that remain (a row without any is all -inf).
        """
        indices = self._index_of[target.top_ids]
        known = indices >= 0
        logprobs = np.where(known, target.top_logprobs, np.float32(-np.inf))
        if tail == "renormalise":
            kept = _logsumexp(logprobs)
            logprobs = logprobs - np.where(np.isfinite(kept), kept, 0)[:, None]
            tail_logprob = np.full(len(logprobs), -np.inf, dtype=np.float32)
        else:
            moved = _logsumexp(np.where(known, np.float32(-np.inf), target.top_logprobs))
            tail_logprob = np.logaddexp(target.tail_logprob, moved)
        return np.where(known, indices, 0), logprobs.astype(np.float32), tail_logprob.astype(np.float32)

    def moved_mass(self, targets: Iterable[TeacherTargets]) -> float:
        """Mean probability per position that the candidates outside the outputs hold, 0..1."""
        moved, rows = 0.0, 0
        for target in targets:
            unknown = self._index_of[target.top_ids] < 0
            moved += float(
                np.exp(target.top_logprobs, where=unknown, out=np.zeros_like(target.top_logprobs)).sum()
            )
            rows += len(target.gold_ids)
        return moved / max(rows, 1)


def build_vocabulary(
    targets: Iterable[TeacherTargets], teacher_size: int, min_count: int
) -> DecoderVocabulary:
    """Pieces of the transcripts, and pieces that the teacher ranks among its candidates `min_count` times.

    targets : of every training utterance, with the k' that training reads
    """
    is_gold = np.zeros(teacher_size, dtype=bool)
    counts = np.zeros(teacher_size, dtype=np.int64)
    for target in targets:
        is_gold[target.gold_ids] = True
        np.add.at(counts, target.top_ids.ravel(), 1)
    pieces = np.flatnonzero(is_gold | (counts >= max(min_count, 1)))
    if not len(pieces):
        raise StudentError("the cache holds no piece of the training transcripts; check the train manifest")
    return DecoderVocabulary(pieces.tolist(), teacher_size)


def _logsumexp(values: Floats) -> Floats:
    """Log of the summed exponentials of each row, (U,); -inf for a row of -inf."""
    summed: Floats = np.logaddexp.reduce(values, axis=-1, initial=-np.inf)
    return summed


def _padded(rows: Sequence[npt.NDArray[np.int64] | npt.NDArray[np.bool_]], padding: float) -> Tensor:
    return pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True, padding_value=padding)
