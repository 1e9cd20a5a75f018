"""Rows that published caches of the same recipe already hold, so that a build scores only the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from teacher_cache.errors import CacheError
from teacher_cache.store.arrays import CacheArrays
from teacher_cache.store.digest_index import DigestIndex
from teacher_cache.store.layout import ROW_ARRAYS
from teacher_cache.store.manifest import Recipe, read_manifest
from teacher_cache.store.root import list_caches
from teacher_cache.store.rows import RowBlock, decode
from teacher_cache.store.verify import shard_fault, table_sha256


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

    Encoding them again gives the stored bytes. Reads each shard once, so ask for neighbours together.
    Raises CacheError where one is not held.
    """
    arrays = CacheArrays(path)
    start, length, positions = _spans(arrays, digests)
    if (positions < 0).any():
        absent = digests[int(np.flatnonzero(positions < 0)[0])].tobytes().hex()
        raise CacheError(f"{path} holds no passage {absent}; rerun `bert2ctc cache build`")
    start, length = start[positions], length[positions]
    within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    wanted = np.repeat(start, length) + within
    order = np.argsort(wanted, kind="stable")
    blocks = []
    shards = wanted[order] // arrays.layout.rows_per_shard
    for shard in np.unique(shards):
        rows = wanted[order][shards == shard]
        first = int(rows[0])
        region = slice(first, int(rows[-1]) + 1)
        blocks.append(decode({name: arrays.read(name, region) for name in ROW_ARRAYS}).take(rows - first))
    return RowBlock.concatenate(blocks).take(np.argsort(order, kind="stable"))


def _sound_passages(path: Path, wanted: np.ndarray, say: Callable[[str], None]) -> ReusablePassages:
    manifest, arrays = read_manifest(path), CacheArrays(path)
    if table_sha256(arrays) != manifest.tables_sha256:
        raise CacheError(f"{path}: its tables are not what its manifest vouches for")
    start, length, positions = _spans(arrays, wanted)
    held = positions >= 0
    start, length = start[positions[held]], length[positions[held]]
    first = start // arrays.layout.rows_per_shard
    last = (start + length - 1) // arrays.layout.rows_per_shard
    sound = np.ones(len(start), bool)
    receipts = {receipt.shard: receipt for receipt in manifest.receipts}
    for shard in range(arrays.layout.num_shards):
        touching = (first <= shard) & (shard <= last)
        if touching.any():
            fault = (
                shard_fault(arrays, receipts[shard]) if shard in receipts else f"shard {shard}: no receipt"
            )
            if fault:
                say(f"not reused: {path}: {fault}")
                sound &= ~touching
    return ReusablePassages(path, wanted[held][sound], length[sound].astype(np.int32))


def _spans(arrays: CacheArrays, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """start and length of every passage, and where in them each wanted one is (-1: nowhere)."""
    positions = DigestIndex(arrays.read("passage/digest")).positions(wanted)
    return arrays.read("passage/start"), arrays.read("passage/length").astype(np.int64), positions
