"""Rows of labels: float values, their stored form, and the digests that a receipt holds of a shard."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from teacher_cache.errors import CacheError
from teacher_cache.store.layout import (
    CHUNK_COLUMNS,
    MISSING_STEPS,
    ROW_ARRAYS,
    Layout,
    dequantise,
    quantise,
)

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


def columns_sha256(stored: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """Array name -> sha256, hexadecimal, of the bytes of each of its column chunks, from the first on.

    stored : of an array with columns, the first ones up to a column chunk's end are enough
    """
    return {name: [_sha256(chunk) for chunk in _column_chunks(values)] for name, values in stored.items()}


def _column_chunks(values: np.ndarray) -> list[np.ndarray]:
    if values.ndim == 1 or values.shape[1] <= CHUNK_COLUMNS:
        return [values]
    return [values[:, first : first + CHUNK_COLUMNS] for first in range(0, values.shape[1], CHUNK_COLUMNS)]


def _sha256(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()


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
