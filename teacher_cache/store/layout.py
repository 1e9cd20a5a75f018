"""The arrays of format 1: names, shapes, dtypes, chunks, and how a log-probability becomes an integer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from teacher_cache.errors import CacheError
from teacher_cache.passages import DIGEST_BYTES

CHUNK_ROWS = 1024
CHUNK_COLUMNS = 16
MAX_ROWS_PER_SHARD = 65_536
TABLE_CHUNK = 65_536

LOGPROB_STEPS_PER_NAT = 2048
SATURATED = 65_534  # -log p of 32 and more
MISSING_STEPS = 65_535
WIDE_VOCABULARY = 65_535  # from this size on, ids need four bytes: the largest u2 is the fill value

VOCABULARY_BYTES = "vocabulary/utf8"  # the one array whose length no layout gives

Shuffle = Literal["none", "bytes", "bits"]

ROW_ARRAYS = (
    "row/gold_id",
    "row/gold_logprob",
    "row/top_id",
    "row/top_logprob",
    "row/lognorm",
    "row/tail_logprob",
)
TABLE_ARRAYS = (
    "passage/start",
    "passage/length",
    "passage/digest",
    VOCABULARY_BYTES,
    "vocabulary/end",
    "vocabulary/is_special",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Every size that the arrays of a cache follow from; kept as the Zarr group's attributes.

    top_k : columns, after the cut to the pieces that may be ranked
    """

    num_rows: int
    num_passages: int
    top_k: int
    temperatures: tuple[float, ...]
    vocab_size: int
    rows_per_shard: int

    def __post_init__(self) -> None:
        if min(self.num_rows, self.num_passages, self.top_k, self.vocab_size) < 1:
            raise CacheError(
                f"nothing to store in {self}; prepare transcripts first: `bert2ctc data prepare`"
            )
        if self.rows_per_shard % CHUNK_ROWS or not CHUNK_ROWS <= self.rows_per_shard <= MAX_ROWS_PER_SHARD:
            raise CacheError(
                f"rows_per_shard {self.rows_per_shard} must be a multiple of {CHUNK_ROWS:,} up to "
                f"{MAX_ROWS_PER_SHARD:,}; set it under [build]"
            )
        if 1.0 not in self.temperatures:
            raise CacheError(f"temperatures {self.temperatures} lack 1.0; add it under [cache]")

    @property
    def num_shards(self) -> int:
        """Shards of the row axis; the last may be short."""
        return -(-self.num_rows // self.rows_per_shard)

    @property
    def id_dtype(self) -> str:
        """Stored dtype of piece ids."""
        return "<u2" if self.vocab_size < WIDE_VOCABULARY else "<u4"

    def shard_rows(self, shard: int) -> slice:
        """The rows of one shard; CacheError outside 0..num_shards - 1."""
        if not 0 <= shard < self.num_shards:
            raise CacheError(f"shard {shard} is not one of {self.num_shards}; rerun `bert2ctc cache build`")
        start = shard * self.rows_per_shard
        return slice(start, min(start + self.rows_per_shard, self.num_rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """One array of the format. shards is None where every chunk is a file of its own."""

    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None
    shuffle: Shuffle = "none"  # before zstd: pays for log-probs, not for ids
    delta: bool = False  # differences along a chunk's rows, before that: pays where a row descends

    @property
    def fill(self) -> int | float:
        """What an unwritten element reads as: the maximum of an integer, NaN of a float."""
        dtype = np.dtype(self.dtype)
        return float("nan") if dtype.kind == "f" else int(np.iinfo(dtype).max)


def array_specs(layout: Layout) -> dict[str, ArraySpec]:
    """Name -> ArraySpec of every array but `vocabulary/utf8`, row arrays first."""
    rows, shard = layout.num_rows, layout.rows_per_shard
    passages, pieces = layout.num_passages, layout.vocab_size

    def row_column(dtype: str, shuffle: Shuffle) -> ArraySpec:
        return ArraySpec(shape=(rows,), dtype=dtype, chunks=(CHUNK_ROWS,), shards=(shard,), shuffle=shuffle)

    def row_table(columns: int, dtype: str, shuffle: Shuffle, delta: bool = False) -> ArraySpec:
        chunk_columns = min(columns, CHUNK_COLUMNS)
        shard_columns = -(-columns // chunk_columns) * chunk_columns  # one shard file spans every column
        return ArraySpec(
            shape=(rows, columns),
            dtype=dtype,
            chunks=(CHUNK_ROWS, chunk_columns),
            shards=(shard, shard_columns),
            shuffle=shuffle,
            delta=delta,
        )

    temperatures = len(layout.temperatures)
    return {
        "row/gold_id": row_column(layout.id_dtype, "none"),
        "row/gold_logprob": row_column("<f4", "bytes"),
        "row/top_id": row_table(layout.top_k, layout.id_dtype, "none"),
        "row/top_logprob": row_table(layout.top_k, "<u2", "bits", delta=True),
        "row/lognorm": row_table(temperatures, "<f4", "bytes"),
        "row/tail_logprob": row_table(temperatures, "<f4", "bytes"),
        "passage/start": table_spec((passages,), "<i8"),
        "passage/length": table_spec((passages,), "<i4"),
        "passage/digest": table_spec((passages, DIGEST_BYTES), "|u1"),
        "vocabulary/end": table_spec((pieces,), "<i8"),
        "vocabulary/is_special": table_spec((pieces,), "|u1"),
    }


def table_spec(shape: tuple[int, ...], dtype: str) -> ArraySpec:
    """An array outside the row axis: plain chunks along its first axis."""
    return ArraySpec(shape=shape, dtype=dtype, chunks=(min(shape[0], TABLE_CHUNK), *shape[1:]))


def row_blocks(num_rows: int) -> Iterator[slice]:
    """Slices that cover so many rows, each of as many as a core's own cache holds with all their columns."""
    return (slice(first, first + CHUNK_ROWS) for first in range(0, num_rows, CHUNK_ROWS))


def quantise(logprobs: np.ndarray) -> np.ndarray:
    """uint16 of -log p x 2048, saturating at 65,534; a float that `dequantise` gave comes back unchanged.

    logprobs : float, natural log, any shape; -inf saturates. Down to -32 the error is at most 2.5e-4.
    """
    steps = np.rint(np.asarray(logprobs, np.float64) * -LOGPROB_STEPS_PER_NAT)
    return np.clip(steps, 0, SATURATED).astype(np.uint16)


def dequantise(steps: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """float32 natural-log probabilities of stored steps, divided by the temperature.

    Exact at temperature 1: the 16 bits of a step fit a float's 24.
    """
    return steps * np.float32(-1.0 / (LOGPROB_STEPS_PER_NAT * temperature))
