"""What a run reads of a cache's rows, k' candidates at one temperature, and how stored columns become it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from teacher_cache.store.layout import CHUNK_COLUMNS, Layout, dequantise, row_blocks


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
        # Written out: this is on the way of every transcript of every batch.
        return Rows(
            self.gold_id[span],
            self.top_id[span],
            self.steps[span],
            self.lognorm[span],
            self.tail_logprob[span],
        )

    def gather(self, spans: np.ndarray) -> Rows:
        """The rows of spans, int64 (B, 2), one span behind another, in memory of their own."""
        lengths = spans[:, 1] - spans[:, 0]
        ends = np.cumsum(lengths)
        numbers = (spans[:, 1] - ends).repeat(lengths)
        numbers += np.arange(len(numbers))
        # `take` of whole rows needs a fifth of the time of an index in brackets
        return Rows(
            self.gold_id.take(numbers),
            self.top_id.take(numbers, axis=0),
            self.steps.take(numbers, axis=0),
            self.lognorm.take(numbers),
            self.tail_logprob.take(numbers),
        )

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


def view_columns(layout: Layout, view: View) -> dict[str, int]:
    """Array name -> columns that a view needs, whole column chunks; 0 for an array without columns.

    Ids up to k', and log-probabilities beyond k' under "bucket" alone, where their mass joins the tail.
    """
    bucket = view.tail == "bucket"
    ranked = min(-(-view.top_k // CHUNK_COLUMNS) * CHUNK_COLUMNS, layout.top_k)
    wanted = {
        "row/gold_id": 0,
        "row/gold_logprob": 0,
        "row/top_id": ranked,
        "row/top_logprob": layout.top_k if bucket else ranked,
    }
    temperatures = len(layout.temperatures)
    return wanted | ({"row/lognorm": temperatures, "row/tail_logprob": temperatures} if bucket else {})


def rows_of(stored: Mapping[str, np.ndarray], layout: Layout, view: View) -> Rows:
    """The rows of a view from the columns that `view_columns` names, in memory of their own."""
    gold_id, steps = stored["row/gold_id"], stored["row/top_logprob"]
    lognorm = np.zeros(len(gold_id), np.float32)
    tail = np.full(len(gold_id), -np.inf, np.float32)
    if view.tail == "bucket":
        column = layout.temperatures.index(view.temperature)
        lognorm = np.array(stored["row/lognorm"][:, column])
        tail = np.array(stored["row/tail_logprob"][:, column])
        if view.top_k < steps.shape[1]:
            for rows in row_blocks(len(steps)):
                beyond = dequantise(steps[rows, view.top_k :], view.temperature)
                beyond -= lognorm[rows, None]
                tail[rows] = np.logaddexp(tail[rows], log_mass(beyond))
    top_id, kept = (np.ascontiguousarray(values[:, : view.top_k]) for values in (stored["row/top_id"], steps))
    return Rows(gold_id, top_id, kept, lognorm, tail)


def log_mass(logprobs: np.ndarray) -> np.ndarray:
    """Log of the summed probabilities of each row, whose first is the likeliest; (n, k) -> (n,)."""
    most = logprobs[:, 0]
    mass: np.ndarray = most + np.log(np.exp(logprobs - most[:, None]).sum(axis=1))
    return mass
