"""Rows of labels: float values, their stored form, the laws that both obey, and the checksum of a shard."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from teacher_cache.errors import CacheError
from teacher_cache.store.layout import (
    LOGPROB_STEPS_PER_NAT,
    MISSING_STEPS,
    ROW_ARRAYS,
    SATURATED,
    Layout,
    dequantise,
    quantise,
)

MASS_TOLERANCE = 1e-3
MASS_AT = (1, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class RowBlock:
    """n consecutive rows. Log-probabilities are natural, over the full vocabulary.

    gold_id : (n,) integer    gold_logprob : (n,) float32, T = 1
    top_id : (n, K) integer, likeliest first, ties by smaller id    top_logprob : (n, K) float32, T = 1
    lognorm : (n, nT) float32, log of the sum over the vocabulary of p^(1/T)
    tail_logprob : (n, nT) float32, log of the mass outside the top K at each T; -inf where there is none
    """

    gold_id: np.ndarray
    gold_logprob: np.ndarray
    top_id: np.ndarray
    top_logprob: np.ndarray
    lognorm: np.ndarray
    tail_logprob: np.ndarray

    def __len__(self) -> int:
        return len(self.gold_id)

    def take(self, rows: slice | np.ndarray) -> RowBlock:
        """These rows, in this order."""
        return RowBlock(*(getattr(self, part.name)[rows] for part in fields(self)))

    @staticmethod
    def concatenate(blocks: Sequence[RowBlock]) -> RowBlock:
        """All rows, in order; `blocks` holds at least one."""
        return RowBlock(
            *(np.concatenate([getattr(block, part.name) for block in blocks]) for part in fields(RowBlock))
        )


def encode(rows: RowBlock, layout: Layout) -> dict[str, np.ndarray]:
    """Array name -> stored values, in the order of ROW_ARRAYS, little-endian and contiguous."""
    stored = {
        "row/gold_id": rows.gold_id.astype(layout.id_dtype),
        "row/gold_logprob": rows.gold_logprob.astype("<f4"),
        "row/top_id": rows.top_id.astype(layout.id_dtype),
        "row/top_logprob": quantise(rows.top_logprob).astype("<u2"),
        "row/lognorm": rows.lognorm.astype("<f4"),
        "row/tail_logprob": rows.tail_logprob.astype("<f4"),
    }
    return {name: np.ascontiguousarray(stored[name]) for name in ROW_ARRAYS}


def decode(stored: Mapping[str, np.ndarray]) -> RowBlock:
    """The rows of stored values; encoding them again gives the same bytes.

    Raises CacheError where a log-probability was never written.
    """
    steps = stored["row/top_logprob"]
    missing = np.flatnonzero((steps == MISSING_STEPS).any(axis=1) | np.isnan(stored["row/gold_logprob"]))
    if len(missing):
        raise CacheError(
            f"row {missing[0]} of {len(steps)} was never written, nor {len(missing) - 1} more; fetch or "
            "build the cache again with `bert2ctc cache build`"
        )
    return RowBlock(
        gold_id=stored["row/gold_id"],
        gold_logprob=stored["row/gold_logprob"],
        top_id=stored["row/top_id"],
        top_logprob=dequantise(steps),
        lognorm=stored["row/lognorm"],
        tail_logprob=stored["row/tail_logprob"],
    )


def checksum(stored: Mapping[str, np.ndarray]) -> str:
    """sha256, hexadecimal, of the bytes of every row array in the order of ROW_ARRAYS."""
    sha256 = hashlib.sha256()
    for name in ROW_ARRAYS:
        sha256.update(np.ascontiguousarray(stored[name]).data)
    return sha256.hexdigest()


def mass_at(rows: RowBlock) -> dict[str, float]:
    """Mean probability mass in the first k columns, keyed by k, for 1, 4, 8, ... up to K."""
    kept = np.cumsum(np.exp(rows.top_logprob.astype(np.float64)), axis=1).mean(axis=0)
    return {str(k): float(kept[k - 1]) for k in MASS_AT if k <= kept.shape[0]}


def fault_of(rows: RowBlock, layout: Layout) -> str:
    """The first law that the rows break, in words; "" where they break none."""
    count, top_k, temperatures = len(rows), layout.top_k, len(layout.temperatures)
    shapes = {
        "gold_id": (count,),
        "gold_logprob": (count,),
        "top_id": (count, top_k),
        "top_logprob": (count, top_k),
        "lognorm": (count, temperatures),
        "tail_logprob": (count, temperatures),
    }
    for name, shape in shapes.items():
        values = getattr(rows, name)
        if values.shape != shape:
            return f"{name} has shape {values.shape}, not {shape}"
        if values.dtype.kind == "f":
            allowed = np.isfinite(values) | (np.isneginf(values) & (name != "lognorm"))
            if not allowed.all():
                return f"{name} holds {values[~allowed][0]} at row {np.argwhere(~allowed)[0][0]}"
            if name != "lognorm" and values.size and values.max() > MASS_TOLERANCE:
                return f"{name} holds {values.max():.4f}, a probability above 1"
        elif values.size and (values.min() < 0 or values.max() >= layout.vocab_size):
            return f"{name} holds {values.max()}, outside a vocabulary of {layout.vocab_size}"
    return _order_fault(rows) or _mass_fault(rows, layout)


def _order_fault(rows: RowBlock) -> str:
    steps, ids = quantise(rows.top_logprob).astype(np.int32), rows.top_id.astype(np.int64)
    rising = (np.diff(steps, axis=1) < 0).any(axis=1)
    if rising.any():
        return f"top_logprob rises along row {np.flatnonzero(rising)[0]}"
    ordered = np.sort(ids, axis=1)
    repeated = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    if repeated.any():
        return f"top_id repeats a piece in row {np.flatnonzero(repeated)[0]}"
    return ""


def _mass_fault(rows: RowBlock, layout: Layout) -> str:
    """Top K and tail make 1 at every stored temperature.

    A saturated log-probability is only an upper bound, which a high temperature makes visible: it
    counts for the mass that must be reached, and not for the mass that must not be exceeded.
    """
    logprobs = rows.top_logprob.astype(np.float64)
    certain = logprobs > -SATURATED / LOGPROB_STEPS_PER_NAT
    for column, temperature in enumerate(layout.temperatures):
        tail = np.exp(rows.tail_logprob[:, column].astype(np.float64))
        shares = np.exp(logprobs / temperature - rows.lognorm[:, column, None].astype(np.float64))
        most = shares.sum(axis=1) + tail
        least = (shares * certain).sum(axis=1) + tail
        wrong = np.flatnonzero((most < 1 - MASS_TOLERANCE) | (least > 1 + MASS_TOLERANCE))
        if len(wrong):
            return (
                f"top {layout.top_k} and tail make {most[wrong[0]]:.5f} at temperature {temperature:g} "
                f"in row {wrong[0]}, not 1 within {MASS_TOLERANCE:g}"
            )
    return ""
