"""Every column of some passages' rows, for those who look at them or copy them."""

from __future__ import annotations

import numpy as np

from teacher_cache.errors import CacheError
from teacher_cache.store.checked_cache import CheckedCache
from teacher_cache.store.digest_index import DigestIndex
from teacher_cache.store.rows import RowBlock


def rows_of_passages(cache: CheckedCache, digests: np.ndarray) -> tuple[RowBlock, np.ndarray]:
    """The rows of passages (uint8 (n, 16), n >= 1) one after another in the given order; int64 (n,) of each.

    Encoding them again gives the stored bytes. Each shard that holds one is read whole and held to its
    receipt, once: ask for neighbours together. Raises CacheError where a passage is not held.
    """
    positions = DigestIndex(cache.digests).positions(digests)
    if (positions < 0).any():
        absent = digests[int(np.flatnonzero(positions < 0)[0])].tobytes().hex()
        raise CacheError(f"{cache.path} holds no passage {absent}; rerun `bert2ctc cache build`")
    start, stop = cache.spans[positions].T
    length = stop - start
    within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    wanted = np.repeat(start, length) + within
    order = np.argsort(wanted, kind="stable")
    shards = wanted[order] // cache.layout.rows_per_shard
    blocks = []
    for shard in np.unique(shards).tolist():
        rows = wanted[order][shards == shard]
        blocks.append(cache.rows(shard).take(rows - cache.layout.shard_rows(shard).start))
    return RowBlock.concatenate(blocks).take(np.argsort(order, kind="stable")), length
