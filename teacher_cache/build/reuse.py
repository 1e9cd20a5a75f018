"""Rows that published caches of the same recipe already hold, so that a build scores only the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from teacher_cache.errors import CacheError
from teacher_cache.store.checked_cache import CheckedCache
from teacher_cache.store.digest_index import DigestIndex
from teacher_cache.store.manifest import Recipe
from teacher_cache.store.passage_rows import rows_of_passages
from teacher_cache.store.root import list_caches
from teacher_cache.store.rows import RowBlock


@dataclass(frozen=True, slots=True)
class ReusablePassages:
    """Passages of a published cache whose shards are sound.

    digests : uint8 (n, 16), ascending     lengths : int32 (n,), rows of each
    """

    path: Path
    digests: np.ndarray
    lengths: np.ndarray


def find_reusable(
    root: Path, recipe: Recipe, wanted: np.ndarray, say: Callable[[str], None]
) -> list[ReusablePassages]:
    """Which of the wanted passages (uint8 (W, 16), ascending) published caches of `recipe` hold.

    Every shard that would be read is checked against its receipt; a damaged one is said and left out.
    No passage is in two results.
    """
    remaining = wanted
    found = []
    for entry in list_caches(root):
        same = entry.manifest is not None and entry.manifest.recipe.digest() == recipe.digest()
        if not same or not len(remaining):
            continue
        try:
            held = _sound_passages(entry.path, remaining, say)
        except CacheError as error:
            say(f"not reused: {error}")
            continue
        if len(held.digests):
            found.append(held)
            remaining = remaining[DigestIndex(held.digests).positions(remaining) < 0]
    return found


def copy_rows(path: Path, digests: np.ndarray) -> RowBlock:
    """The rows of these passages (uint8 (n, 16), n >= 1), one after another in the given order.

    Encoding them again gives the stored bytes. Each shard is read once and held to its receipt, so ask for
    neighbours together. Raises CacheError where one is not held.
    """
    return rows_of_passages(CheckedCache(path), digests)[0]


def _sound_passages(path: Path, wanted: np.ndarray, say: Callable[[str], None]) -> ReusablePassages:
    cache = CheckedCache(path)
    positions = DigestIndex(cache.digests).positions(wanted)
    is_held = positions >= 0
    start, stop = cache.spans[positions[is_held]].T
    first, last = start // cache.layout.rows_per_shard, (stop - 1) // cache.layout.rows_per_shard
    is_sound = np.ones(len(start), bool)
    for shard in range(cache.layout.num_shards):
        touching = (first <= shard) & (shard <= last)
        if touching.any():
            try:
                cache.whole_shard(shard)
            except CacheError as error:
                say(f"not reused: {error}")
                is_sound &= ~touching
    return ReusablePassages(path, wanted[is_held][is_sound], (stop - start)[is_sound].astype(np.int32))
