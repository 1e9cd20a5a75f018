"""Reads labels at training speed: arrays in memory, one binary search and a few slices per transcript."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from teacher_cache.arrays import CacheArrays
from teacher_cache.digest_index import DigestIndex
from teacher_cache.errors import CacheError
from teacher_cache.layout import MISSING_STEPS, dequantise
from teacher_cache.passages import DIGEST_BYTES
from teacher_cache.records import read_manifest
from teacher_cache.schema import Manifest

TAIL_POLICIES = ("bucket", "renormalise")
NAMED_IN_ERRORS = 3


@dataclass(frozen=True, slots=True)
class TeacherTargets:
    """The teacher's labels for one transcript of U pieces, k' candidates each.

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


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows as they are kept: ids and steps as stored, tail and normaliser at the reader's k' and T."""

    gold_id: np.ndarray  # (n,)
    top_id: np.ndarray  # (n, k')
    steps: np.ndarray  # uint16 (n, k')
    lognorm: np.ndarray  # float32 (n,)
    tail_logprob: np.ndarray  # float32 (n,), beyond k'

    def __getitem__(self, span: slice) -> _Rows:
        return _Rows(
            self.gold_id[span],
            self.top_id[span],
            self.steps[span],
            self.lognorm[span],
            self.tail_logprob[span],
        )


class TeacherCacheReader:
    """Labels by passage digest. Never writes, and raises CacheError rather than guess.

    top_k : k' <= K, None for K     temperature : any under tail="renormalise", a stored one under "bucket"
    tail : "bucket" keeps the mass outside the k' as one number, "renormalise" drops it
    memory : rows are loaded once, on first use; False reads each passage from the store (slow, small)

    Attributes: fingerprint, manifest, top_k. `vocabulary` and `is_special` are read on first use. Opening
    touches the manifest alone, so that a data worker forked or spawned later opens the rest itself.
    """

    def __init__(
        self,
        path: Path,
        *,
        top_k: int | None = None,
        temperature: float = 1.0,
        tail: str = "bucket",
        memory: bool = True,
    ) -> None:
        self.path = Path(path)
        self.manifest: Manifest = read_manifest(self.path)
        self.fingerprint = self.manifest.fingerprint
        layout = self.manifest.layout
        self.top_k = layout.top_k if top_k is None else top_k
        self.temperature, self.tail, self._memory = float(temperature), tail, memory
        if not 1 <= self.top_k <= layout.top_k:
            raise CacheError(
                f"top_k {top_k} is not in 1..{layout.top_k} of cache {self.fingerprint}; lower [objective] "
                "top_k, or build with a larger [cache] top_k"
            )
        if tail not in TAIL_POLICIES:
            raise CacheError(f"tail {tail!r} is not one of {TAIL_POLICIES}; set [objective] tail")
        stored = ", ".join(f"{value:g}" for value in layout.temperatures)
        if tail == "bucket" and self.temperature not in layout.temperatures:
            raise CacheError(
                f"temperature {temperature:g} is not stored in cache {self.fingerprint} ({stored} are); take "
                'one of them, or set [objective] tail = "renormalise"'
            )
        if not self.temperature > 0:
            raise CacheError(f"temperature {temperature:g} must be positive; set [objective] temperature")
        receipts = [receipt.shard for receipt in self.manifest.receipts]
        if receipts != list(range(layout.num_shards)):
            raise CacheError(
                f"{self.path}: receipts of {len(receipts)} shards, {layout.num_shards} needed; rebuild with "
                "`bert2ctc cache build`"
            )

    def __len__(self) -> int:
        return self.manifest.layout.num_passages

    def __contains__(self, digest: bytes) -> bool:
        return self._index.place(digest) >= 0

    def __getstate__(self) -> dict[str, Any]:
        """What a spawned worker gets: the settings; it loads the arrays itself."""
        loaded = ("_arrays", "_index", "_spans", "_rows", "vocabulary", "is_special")
        return {name: value for name, value in self.__dict__.items() if name not in loaded}

    def targets(self, digest: bytes) -> TeacherTargets:
        """The labels of one passage; CacheError where the cache does not hold it."""
        place = self._index.place(digest)
        if place < 0:
            raise CacheError(
                f"cache {self.fingerprint} holds no passage {digest.hex()}; label it with "
                "`bert2ctc cache build`"
            )
        start, stop = self._spans[place]
        span = slice(int(start), int(stop))
        rows = self._rows[span] if self._memory else self._read_rows(span)
        logprobs = dequantise(rows.steps, self.temperature)
        if self.tail == "renormalise":
            logprobs -= _log_mass(logprobs)[:, None]
        elif self.temperature != 1:
            logprobs -= rows.lognorm[:, None]
        return TeacherTargets(
            gold_ids=rows.gold_id.astype(np.int32),
            top_ids=rows.top_id.astype(np.int32),
            top_logprobs=logprobs,
            tail_logprob=rows.tail_logprob.copy(),  # a view would let its user change the cache in memory
        )

    def require(self, digest_of: Mapping[str, bytes]) -> None:
        """CacheError that names the first utterances (key of `digest_of`) whose passage is not held."""
        if not digest_of:
            return
        digests = np.frombuffer(b"".join(digest_of.values()), np.uint8).reshape(-1, DIGEST_BYTES)
        places = self._index.places(digests)
        names = [name for name, place in zip(digest_of, places, strict=True) if place < 0]
        if names:
            more = f" and {len(names) - NAMED_IN_ERRORS:,} more" if len(names) > NAMED_IN_ERRORS else ""
            raise CacheError(
                f"cache {self.fingerprint} holds no labels for {', '.join(names[:NAMED_IN_ERRORS])}{more} of "
                f"{len(digest_of):,} utterances; label them with `bert2ctc cache build`"
            )

    @cached_property
    def _arrays(self) -> CacheArrays:
        arrays = CacheArrays(self.path)
        if arrays.layout != self.manifest.layout:
            raise CacheError(
                f"{self.path}: arrays and manifest differ ({arrays.layout} and {self.manifest.layout}); "
                "check the cache with `bert2ctc cache verify`"
            )
        return arrays

    @cached_property
    def _index(self) -> DigestIndex:
        return DigestIndex(self._arrays.read("passage/digest"))

    @cached_property
    def _spans(self) -> np.ndarray:
        start = self._arrays.read("passage/start")
        return np.stack([start, start + self._arrays.read("passage/length")], axis=1)

    @cached_property
    def vocabulary(self) -> list[str]:
        """The teacher's pieces in id order."""
        text = self._arrays.read("vocabulary/utf8").tobytes()
        ends = self._arrays.read("vocabulary/end").tolist()
        return [text[start:end].decode("utf-8") for start, end in zip([0, *ends], ends, strict=False)]

    @cached_property
    def is_special(self) -> np.ndarray:
        """Bool (V,): pieces that no transcript is made of."""
        return self._arrays.read("vocabulary/is_special").astype(bool)

    @cached_property
    def _rows(self) -> _Rows:
        """Every row, read shard by shard so that no more than one shard is held twice."""
        layout = self.manifest.layout
        first = self._read_rows(layout.shard_rows(0))
        whole = _Rows(
            *(
                np.empty((layout.num_rows, *column.shape[1:]), column.dtype)
                for column in (getattr(first, part.name) for part in fields(first))
            )
        )
        for shard in range(layout.num_shards):
            span = layout.shard_rows(shard)
            rows = self._read_rows(span) if shard else first
            for part in fields(rows):
                getattr(whole, part.name)[span] = getattr(rows, part.name)
        return whole

    def _read_rows(self, span: slice) -> _Rows:
        """Rows from the store, refused where any of them was never written."""
        read, top_k, bucket = self._arrays.read, self.top_k, self.tail == "bucket"
        layout = self.manifest.layout
        # Only a bucket needs the columns beyond k': their mass joins the tail.
        columns = slice(0, layout.top_k if bucket else top_k)
        gold_id, top_id = read("row/gold_id", span), read("row/top_id", (span, slice(0, top_k)))
        steps = read("row/top_logprob", (span, columns))
        lognorm = np.zeros(len(gold_id), np.float32)
        tail = np.full(len(gold_id), -np.inf, np.float32)
        if bucket:
            temperature = slice(*(layout.temperatures.index(self.temperature) + step for step in (0, 1)))
            lognorm = read("row/lognorm", (span, temperature))[:, 0]
            tail = read("row/tail_logprob", (span, temperature))[:, 0]
        unwritten = (gold_id >= layout.vocab_size) | (top_id >= layout.vocab_size).any(axis=1)
        unwritten |= (steps == MISSING_STEPS).any(axis=1) | np.isnan(lognorm) | np.isnan(tail)
        if unwritten.any():
            row = span.start + int(np.flatnonzero(unwritten)[0])
            raise CacheError(
                f"{self.path}: row {row} was never written; check the cache with `bert2ctc cache verify`"
            )
        if top_k < steps.shape[1]:
            beyond = dequantise(steps[:, top_k:], self.temperature) - lognorm[:, None]
            tail = np.logaddexp(tail, _log_mass(beyond))
        return _Rows(gold_id, top_id, steps[:, :top_k], lognorm, tail)


def _log_mass(logprobs: np.ndarray) -> np.ndarray:
    """Log of the summed probabilities of each row, whose first is the likeliest; (n, k) -> (n,)."""
    most = logprobs[:, 0]
    mass: np.ndarray = most + np.log(np.exp(logprobs - most[:, None]).sum(axis=1))
    return mass
