"""What a run reads of a cache's rows, k' candidates at one temperature, and how it comes out of the store."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from teacher_cache.errors import CacheError
from teacher_cache.store.arrays import CacheArrays
from teacher_cache.store.layout import MISSING_STEPS, Layout, dequantise


@dataclass(frozen=True, slots=True)
class View:
    """top_k : k' candidates     temperature : T     tail : "bucket" or "renormalise"."""

    top_k: int
    temperature: float
    tail: str

    @property
    def name(self) -> str:
        """Plain characters that tell two views apart."""
        return f"k{self.top_k}-t{self.temperature!r}-{self.tail}"


@dataclass(frozen=True, slots=True)
class Rows:
    """n rows of a view: ids and steps as stored, tail and normaliser at its k' and T.

    gold_id : (n,)     top_id : (n, k')     steps : uint16 (n, k'), of -log p at temperature 1
    lognorm : float32 (n,), 0 under "renormalise"     tail_logprob : float32 (n,), of the mass beyond k'
    """

    gold_id: np.ndarray
    top_id: np.ndarray
    steps: np.ndarray
    lognorm: np.ndarray
    tail_logprob: np.ndarray

    def __getitem__(self, span: slice) -> Rows:
        return Rows(*(getattr(self, part.name)[span] for part in fields(self)))

    @property
    def num_bytes(self) -> int:
        """What the rows take in memory."""
        return sum(getattr(self, part.name).nbytes for part in fields(self))

    @staticmethod
    def concatenate(parts: Sequence[Rows]) -> Rows:
        """All rows, in order; `parts` holds at least one."""
        if len(parts) == 1:
            return parts[0]
        return Rows(*(np.concatenate([getattr(part, name.name) for part in parts]) for name in fields(Rows)))


def row_columns(layout: Layout, view: View) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> dtype and shape behind the row axis of each column of `Rows`."""
    return {
        "gold_id": (layout.id_dtype, ()),
        "top_id": (layout.id_dtype, (view.top_k,)),
        "steps": ("<u2", (view.top_k,)),
        "lognorm": ("<f4", ()),
        "tail_logprob": ("<f4", ()),
    }


def row_bytes(layout: Layout, view: View) -> int:
    """Bytes of one row in memory."""
    columns = row_columns(layout, view).values()
    return sum(np.dtype(dtype).itemsize * int(np.prod(shape)) for dtype, shape in columns)


def read_rows(arrays: CacheArrays, view: View, span: slice) -> Rows:
    """Rows from the store, refused where any of them was never written.

    Only the columns that the view needs are read: ids up to k', and log-probabilities beyond k' under
    "bucket" alone, where their mass joins the tail.
    """
    read, layout, bucket = arrays.read, arrays.layout, view.tail == "bucket"
    columns = slice(0, layout.top_k if bucket else view.top_k)
    gold_id, top_id = read("row/gold_id", span), read("row/top_id", (span, slice(0, view.top_k)))
    steps = read("row/top_logprob", (span, columns))
    lognorm = np.zeros(len(gold_id), np.float32)
    tail = np.full(len(gold_id), -np.inf, np.float32)
    if bucket:
        temperature = slice(*(layout.temperatures.index(view.temperature) + step for step in (0, 1)))
        lognorm = read("row/lognorm", (span, temperature))[:, 0]
        tail = read("row/tail_logprob", (span, temperature))[:, 0]
    unwritten = (gold_id >= layout.vocab_size) | (top_id >= layout.vocab_size).any(axis=1)
    unwritten |= (steps == MISSING_STEPS).any(axis=1) | np.isnan(lognorm) | np.isnan(tail)
    if unwritten.any():
        row = span.start + int(np.flatnonzero(unwritten)[0])
        raise CacheError(
            f"{arrays.path}: row {row} was never written; check the cache with "
            f"`bert2ctc cache verify {shlex.quote(str(arrays.path))}`"
        )
    if view.top_k < steps.shape[1]:
        beyond = dequantise(steps[:, view.top_k :], view.temperature) - lognorm[:, None]
        tail = np.logaddexp(tail, log_mass(beyond))
    return Rows(gold_id, top_id, np.ascontiguousarray(steps[:, : view.top_k]), lognorm, tail)


def log_mass(logprobs: np.ndarray) -> np.ndarray:
    """Log of the summed probabilities of each row, whose first is the likeliest; (n, k) -> (n,)."""
    most = logprobs[:, 0]
    mass: np.ndarray = most + np.log(np.exp(logprobs - most[:, None]).sum(axis=1))
    return mass
