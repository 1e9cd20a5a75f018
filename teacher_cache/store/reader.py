"""Reads labels at training speed: one binary search a transcript, and one gather a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from teacher_cache.common.differences import listed
from teacher_cache.common.sizes import MEBIBYTE
from teacher_cache.config import TAIL_POLICIES
from teacher_cache.errors import CacheError
from teacher_cache.passages import DIGEST_BYTES
from teacher_cache.store.checked_cache import CheckedCache, ColumnDigests, receipts_fault
from teacher_cache.store.digest_index import DigestIndex
from teacher_cache.store.manifest import Manifest, read_manifest
from teacher_cache.store.memory_map import MappedRows, ensure_map, map_path
from teacher_cache.store.old_receipts import column_digests
from teacher_cache.store.row_backends import BACKENDS, ChunkRows, MemoryRows, RowBackend
from teacher_cache.store.row_source import RowSource
from teacher_cache.store.targets import TargetsBatch, TeacherTargets, targets_of
from teacher_cache.store.view import View, row_bytes

MEMORY_MEGABYTES = 4096.0  # MiB, like every limit of memory
NAMED_IN_ERRORS = 3


class TeacherCacheReader:
    """Labels by passage digest. Never writes to the cache, and raises CacheError rather than guess.

    top_k : k' <= K, None for K     temperature : any under tail="renormalise", a stored one under "bucket"
    tail : "bucket" keeps the mass outside the k' as one number, "renormalise" drops it
    backend : what keeps the rows. "memory": read once, in this process. "map": an uncompressed file below
        `scratch`, written once per cache and view and mapped by every process that reads it. "chunks": the
        chunks used last. "auto": memory where the rows fit `memory_megabytes`, else a map where there is a
        `scratch`, else chunks of so many MiB. The labels are the same whichever it is.

    Whatever is handed out was held to the cache's receipts since this reader, or the one that a process sent
    it as, was made: a shard that was exchanged, rewritten or lost is an error, and so is a row that breaks a
    law of the format.

    Attributes: fingerprint, manifest, view, backend (never "auto"), top_k. `vocabulary` and `is_special` are
    read on first use. Opening touches the manifest alone, and pickling takes settings and no rows: a data
    worker, however it starts, opens the rest itself. `prepare` before workers start leaves them only the map.
    """

    def __init__(
        self,
        path: Path,
        *,
        top_k: int | None = None,
        temperature: float = 1.0,
        tail: str = "bucket",
        backend: str = "auto",
        memory_megabytes: float = MEMORY_MEGABYTES,
        scratch: Path | None = None,
    ) -> None:
        self.path = Path(path)
        self.manifest: Manifest = read_manifest(self.path)
        self.fingerprint = self.manifest.fingerprint
        layout = self.manifest.layout
        self.view = View(layout.top_k if top_k is None else top_k, float(temperature), tail)
        self.top_k, self.temperature, self.tail = self.view.top_k, self.view.temperature, tail
        self._refuse_what_is_not_held()
        self.memory_megabytes = memory_megabytes
        self.scratch = None if scratch is None else Path(scratch).absolute()  # workers may stand elsewhere
        self.backend = self._choose(backend)
        self._is_map_checked = False
        self._vouched: list[ColumnDigests] | None = None

    def _refuse_what_is_not_held(self) -> None:
        layout, view = self.manifest.layout, self.view
        if not 1 <= view.top_k <= layout.top_k:
            raise CacheError(
                f"top_k {view.top_k} is not in 1..{layout.top_k} of cache {self.fingerprint}; lower "
                "[objective] top_k, or build with a larger [cache] top_k"
            )
        if view.tail not in TAIL_POLICIES:
            raise CacheError(f"tail {view.tail!r} is not one of {TAIL_POLICIES}; set [objective] tail")
        stored = ", ".join(f"{value:g}" for value in layout.temperatures)
        if view.tail == "bucket" and view.temperature not in layout.temperatures:
            raise CacheError(
                f"temperature {view.temperature:g} is not stored in cache {self.fingerprint} ({stored} are); "
                'take one of them, or set [objective] tail = "renormalise"'
            )
        if not view.temperature > 0:
            raise CacheError(
                f"temperature {view.temperature:g} must be positive; set [objective] temperature"
            )
        fault = receipts_fault(self.manifest)
        if fault:
            raise CacheError(f"{self.path}: {fault}; rebuild with `bert2ctc cache build`")

    def _choose(self, backend: str) -> str:
        if backend not in ("auto", *BACKENDS):
            raise CacheError(f"backend {backend!r} is not one of {('auto', *BACKENDS)}; leave it out")
        if backend == "map" and self.scratch is None:
            raise CacheError("a memory map needs a folder; name one with BERT2CTC_SCRATCH")
        if backend != "auto":
            return backend
        if self.num_bytes <= self.memory_megabytes * MEBIBYTE:
            return "memory"
        return "chunks" if self.scratch is None else "map"

    @property
    def num_bytes(self) -> int:
        """What every row of the view takes, uncompressed."""
        return row_bytes(self.manifest.layout, self.view) * self.manifest.layout.num_rows

    def __len__(self) -> int:
        return self.manifest.layout.num_passages

    def __contains__(self, digest: bytes) -> bool:
        return self._index.position(digest) >= 0

    def __getstate__(self) -> dict[str, Any]:
        """What a spawned worker gets: the settings, and what was found out of the cache; it opens the arrays
        itself."""
        loaded = ("_cache", "_source", "_index", "_spans", "_backend", "_map", "vocabulary", "is_special")
        return {name: value for name, value in self.__dict__.items() if name not in loaded}

    def prepare(self) -> None:
        """Do now what the first use would do: read the rows into memory, or write and check the map.

        Every row of a cache of version 0.1 is read once, unless an earlier run noted below `scratch` what it
        found. Raises CacheError where anything is not what manifest and receipts vouch for.
        """
        self._backend  # noqa: B018  # a cached property
        self._index  # noqa: B018

    def targets(self, digest: bytes) -> TeacherTargets:
        """The labels of one passage; CacheError where the cache does not hold it."""
        position = self._index.position(digest)
        if position < 0:
            raise self._absent(digest)
        start, stop = self._spans[position]
        return targets_of(self._backend.rows(slice(int(start), int(stop))), self.view)

    def batch(self, digests: Sequence[bytes]) -> TargetsBatch:
        """The same labels of several passages: one look-up and one gather for all of them."""
        positions = self._index.positions(
            np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)
        )
        if positions.min(initial=0) < 0:
            raise self._absent(digests[int(np.flatnonzero(positions < 0)[0])])
        spans = self._spans[positions]
        rows = targets_of(self._backend.gather(spans), self.view)
        return TargetsBatch(rows, spans[:, 1] - spans[:, 0])

    def _absent(self, digest: bytes) -> CacheError:
        return CacheError(
            f"cache {self.fingerprint} holds no passage {digest.hex()}; label it with `bert2ctc cache build`"
        )

    def require(self, digest_of: Mapping[str, bytes]) -> None:
        """CacheError that names the first utterances (key of `digest_of`) whose passage is not held."""
        if not digest_of:
            return
        digests = np.frombuffer(b"".join(digest_of.values()), np.uint8).reshape(-1, DIGEST_BYTES)
        positions = self._index.positions(digests)
        names = [name for name, position in zip(digest_of, positions, strict=True) if position < 0]
        if names:
            raise CacheError(
                f"cache {self.fingerprint} holds no labels for {listed(names, NAMED_IN_ERRORS, ', ')} of "
                f"{len(digest_of):,} utterances; label them with `bert2ctc cache build`"
            )

    @cached_property
    def _cache(self) -> CheckedCache:
        return CheckedCache(self.path, self.manifest)

    @cached_property
    def _source(self) -> RowSource:
        if self._vouched is None:
            self._vouched = column_digests(self._cache, self.scratch)
        return RowSource(self._cache, self.view, self._vouched)

    @cached_property
    def _index(self) -> DigestIndex:
        return DigestIndex(self._map.digest if self.backend == "map" else self._cache.digests)

    @cached_property
    def _spans(self) -> np.ndarray:
        return self._map.span if self.backend == "map" else self._cache.spans

    @cached_property
    def _backend(self) -> RowBackend:
        if self.backend == "map":
            return self._map
        if self.backend == "memory":
            return MemoryRows(self._source)
        return ChunkRows(self._source, int(self.memory_megabytes * MEBIBYTE))

    @cached_property
    def _map(self) -> MappedRows:
        """Checked byte by byte once; a process that was sent a reader relies on the one that sent it."""
        assert self.scratch is not None, "a reader that holds a map was given a folder for it"
        path = map_path(self.scratch, self.fingerprint, self.view)
        if not self._is_map_checked:
            ensure_map(path, self.manifest, self.view, lambda: (self._cache, self._source))
            self._is_map_checked = True
        return MappedRows(path, self.manifest.layout, self.view)

    @cached_property
    def vocabulary(self) -> list[str]:
        """The teacher's pieces in id order."""
        return self._cache.vocabulary

    @cached_property
    def is_special(self) -> np.ndarray:
        """Bool (V,): pieces that no transcript is made of."""
        return np.array(self._cache.is_special)
