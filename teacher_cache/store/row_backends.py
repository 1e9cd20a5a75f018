"""What keeps a view's rows while a run reads them: memory, or the chunks used last (`memory_map`: a file)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import fields
from typing import Protocol

import numpy as np

from teacher_cache.store.layout import CHUNK_ROWS
from teacher_cache.store.row_source import RowSource
from teacher_cache.store.view import Rows, row_columns

BACKENDS = ("memory", "map", "chunks")


class RowBackend(Protocol):
    """Any consecutive rows of a cache."""

    def rows(self, span: slice) -> Rows:
        """The rows of a span within the cache; views of what is held, not to be written to."""
        ...

    def gather(self, spans: np.ndarray) -> Rows:
        """The rows of spans, int64 (B, 2), one span behind another; not to be written to."""
        ...


class MemoryRows:
    """Every row in this process's memory, read shard by shard: few shards are held twice."""

    def __init__(self, source: RowSource) -> None:
        columns = row_columns(source.layout, source.view).values()
        num_rows = source.layout.num_rows
        self._rows = Rows(*(np.empty((num_rows, *shape), dtype) for dtype, shape in columns))
        for span, rows in source.shards():
            for part in fields(rows):
                getattr(self._rows, part.name)[span] = getattr(rows, part.name)

    def rows(self, span: slice) -> Rows:
        """A slice of what is held."""
        return self._rows[span]

    def gather(self, spans: np.ndarray) -> Rows:
        """Copied out of what is held."""
        return self._rows.gather(spans)


class ChunkRows:
    """The chunks used last, up to so many bytes and at least one; the others are read from the store."""

    def __init__(self, source: RowSource, limit_bytes: int) -> None:
        self._source, self._limit = source, limit_bytes
        self._held: OrderedDict[int, Rows] = OrderedDict()
        self.held_bytes = 0

    def rows(self, span: slice) -> Rows:
        """The rows of one to a few chunks."""
        first, last = span.start // CHUNK_ROWS, max(span.stop - 1, span.start) // CHUNK_ROWS
        parts = []
        for chunk in range(first, last + 1):
            start = chunk * CHUNK_ROWS
            within = slice(max(span.start - start, 0), min(span.stop - start, CHUNK_ROWS))
            parts.append(self._chunk(chunk)[within])
        return Rows.concatenate(parts)

    def gather(self, spans: np.ndarray) -> Rows:
        """Span by span: a batch may need more chunks than are held at a time."""
        return Rows.concatenate([self.rows(slice(*span)) for span in spans.tolist() or [(0, 0)]])

    def _chunk(self, number: int) -> Rows:
        rows = self._held.get(number)
        if rows is not None:
            self._held.move_to_end(number)
            return rows
        rows = self._source.chunk(number)
        self._held[number] = rows
        self.held_bytes += rows.num_bytes
        while self.held_bytes > self._limit and len(self._held) > 1:
            self.held_bytes -= self._held.popitem(last=False)[1].num_bytes
        return rows
