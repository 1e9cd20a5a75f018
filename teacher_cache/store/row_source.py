"""The rows of a view as they come out of the store, each shard held to its receipt first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from teacher_cache.errors import CacheError
from teacher_cache.store.checked_cache import CheckedCache, ColumnDigests
from teacher_cache.store.layout import CHUNK_ROWS
from teacher_cache.store.view import Rows, View, rows_of, view_columns


class RowSource:
    """Rows of one cache under one view.

    vouched : digests of every shard's column chunks, by shard
    """

    def __init__(self, cache: CheckedCache, view: View, vouched: Sequence[ColumnDigests]) -> None:
        self.layout, self.view = cache.layout, view
        self._cache, self._vouched = cache, vouched
        self._wanted = view_columns(cache.layout, view)
        self._temperatures = (view.temperature,) if view.tail == "bucket" else ()
        self._chunks: dict[int, list[bytes]] = {}  # of each shard that was held: a digest of each chunk

    def shards(self) -> Iterator[tuple[slice, Rows]]:
        """The rows of every shard in order; one is checked in a second thread while the next is decoded."""
        with ThreadPoolExecutor(1) as checker:
            waiting: tuple[slice, Future[Rows]] | None = None
            for shard in range(self.layout.num_shards):
                span = self.layout.shard_rows(shard)
                stored = self._cache.read(span, self._wanted)
                if waiting is not None:
                    yield waiting[0], waiting[1].result()
                waiting = span, checker.submit(self._checked, shard, stored)
            if waiting is not None:
                yield waiting[0], waiting[1].result()

    def chunk(self, number: int) -> Rows:
        """The rows of one chunk of CHUNK_ROWS.

        The first chunk of a shard costs as much as the whole shard, which its receipt speaks of; what is
        read of it again is held to what was read then.
        """
        start = number * CHUNK_ROWS
        shard, within = divmod(start, self.layout.rows_per_shard)
        index, stop = within // CHUNK_ROWS, min(start + CHUNK_ROWS, self.layout.num_rows)
        if shard not in self._chunks:
            whole = self._cache.read(self.layout.shard_rows(shard), self._wanted)
            self._cache.hold(shard, whole, self._vouched[shard], self._temperatures)
            count = -(-len(whole["row/gold_id"]) // CHUNK_ROWS)
            self._chunks[shard] = [_digest(_chunk_of(whole, chunk)) for chunk in range(count)]
            return rows_of(_chunk_of(whole, index), self.layout, self.view)
        stored = self._cache.read(slice(start, stop), self._wanted)
        if _digest(stored) != self._chunks[shard][index]:
            raise CacheError(
                f"{self._cache.path}: shard {shard} changed while it was read; leave a published cache as it "
                "is, and start again"
            )
        return rows_of(stored, self.layout, self.view)

    def _checked(self, shard: int, stored: Mapping[str, np.ndarray]) -> Rows:
        self._cache.hold(shard, stored, self._vouched[shard], self._temperatures)
        return rows_of(stored, self.layout, self.view)


def _chunk_of(stored: Mapping[str, np.ndarray], number: int) -> dict[str, np.ndarray]:
    rows = slice(number * CHUNK_ROWS, (number + 1) * CHUNK_ROWS)
    return {name: np.array(values[rows]) for name, values in stored.items()}  # lets go of the shard


def _digest(stored: Mapping[str, np.ndarray]) -> bytes:
    sha256 = hashlib.sha256()
    for values in stored.values():
        sha256.update(np.ascontiguousarray(values).data)
    return sha256.digest()
