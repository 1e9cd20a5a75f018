"""Labels as they are handed out: of one transcript, or of many with their rows one behind another."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import numpy.typing as npt

from teacher_cache.store.layout import dequantise
from teacher_cache.store.view import Rows, View, log_mass


@dataclass(frozen=True, slots=True)
class TeacherTargets:
    """The teacher's labels for U pieces of transcript, k' candidates each.

    gold_ids : int32 (U,)       the transcript's own pieces
    top_ids : int32 (U, k')     candidates, likeliest first
    top_logprobs : float32 (U, k')   natural log at the reader's temperature; under "bucket" normalised
        over the full vocabulary, under "renormalise" over the k'
    tail_logprob : float32 (U,)      natural log of the mass outside the k'; -inf under "renormalise"
    """

    gold_ids: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray
    tail_logprob: np.ndarray

    def __getitem__(self, span: slice) -> TeacherTargets:
        return TeacherTargets(*(getattr(self, part.name)[span] for part in fields(self)))


@dataclass(frozen=True)
class TargetsBatch:
    """The labels of B transcripts: one gather for all of them.

    rows : of every transcript, one behind another, N in all     lengths : int64 (B,), of each transcript
    """

    rows: TeacherTargets
    lengths: npt.NDArray[np.int64]

    def __getitem__(self, number: int) -> TeacherTargets:
        """The labels of one transcript, as views."""
        stop = int(self.lengths[: number + 1].sum())
        return self.rows[stop - int(self.lengths[number]) : stop]

    @cached_property
    def places(self) -> npt.NDArray[np.int64]:
        """Int64 (B, U) for U of the longest: the row that stands there, N behind a transcript's end."""
        ends = np.cumsum(self.lengths)
        places = (ends - self.lengths)[:, None] + np.arange(self.lengths.max(initial=0))
        np.putmask(places, places >= ends[:, None], len(self.rows.gold_ids))
        return places

    def padded(self, values: np.ndarray, padding: float, dtype: npt.DTypeLike | None = None) -> np.ndarray:
        """(B, U, ...) of values (N, ...), one a row."""
        one_more = np.empty((len(values) + 1, *values.shape[1:]), dtype or values.dtype)
        one_more[:-1], one_more[-1] = values, padding
        # `take` of whole rows costs a fifth of an assignment to padded places
        return one_more.take(self.places, axis=0)


def targets_of(rows: Rows, view: View) -> TeacherTargets:
    """Labels in memory of their own: a view would let its user change what is held."""
    logprobs = dequantise(rows.steps, view.temperature)
    if view.tail == "renormalise":
        logprobs -= log_mass(logprobs)[:, None]
    elif view.temperature != 1:
        logprobs -= rows.lognorm[:, None]
    return TeacherTargets(
        gold_ids=rows.gold_id.astype(np.int32),
        top_ids=rows.top_id.astype(np.int32),
        top_logprobs=logprobs,
        tail_logprob=np.array(rows.tail_logprob),
    )
