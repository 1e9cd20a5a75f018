"""Digests of column chunks for caches of version 0.1, whose receipts hold one digest of all columns.

Such a cache is read whole once and held to its receipts; what its column chunks are is noted below the
scratch root, so that later runs read their own columns only and hold them to that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from teacher_cache.common.files import canonical_json, sha256_of, write_whole
from teacher_cache.common.lock import alone
from teacher_cache.common.progress import progress
from teacher_cache.common.small_files import parse_object, read_text
from teacher_cache.common.typed import Fault
from teacher_cache.errors import CacheError
from teacher_cache.store.checked_cache import CheckedCache, ColumnDigests
from teacher_cache.store.rows import columns_sha256

NOTE_VERSION = 1
MAX_NOTE_BYTES = 1 << 28


def column_digests(cache: CheckedCache, scratch: Path | None) -> list[ColumnDigests]:
    """The digests of every shard's column chunks, from the receipts or, where they lack them, from the rows.

    scratch : where what was found is noted for the next run; None keeps nothing
    Of several processes one reads while the others wait. Raises CacheError for the first damaged shard.
    """
    receipts = cache.manifest.receipts
    if all(receipt.columns_sha256 for receipt in receipts):
        return [receipt.columns_sha256 for receipt in receipts]
    if scratch is None:
        return _found(cache)
    path = scratch / f"{cache.manifest.fingerprint}.columns.json"
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        with alone(path.with_name(f"{path.name}.lock")):
            noted = _noted(path, cache)
            if noted is None:
                noted = _found(cache)
                entry = {**_identity(cache), "columns_sha256": noted}
                whole = {**entry, "sha256": sha256_of(canonical_json(entry))}
                write_whole(path, json.dumps(whole) + "\n")
            return noted
    except OSError as error:
        raise CacheError(
            f"{path}: cannot note what the cache holds ({error.strerror}); free space, or name another "
            "folder with BERT2CTC_SCRATCH"
        ) from error


def _found(cache: CheckedCache) -> list[ColumnDigests]:
    found: list[ColumnDigests] = []
    with progress("checking the cache once", cache.layout.num_shards, "shards") as advance:
        for shard in range(cache.layout.num_shards):
            found.append(columns_sha256(cache.whole_shard(shard)))
            advance(1)
    return found


def _noted(path: Path, cache: CheckedCache) -> list[ColumnDigests] | None:
    """What an earlier run noted of this very cache; None where there is nothing whole."""
    try:
        entry = parse_object(read_text(path, MAX_NOTE_BYTES))
        found: list[ColumnDigests] = entry["columns_sha256"]
        is_whole = entry.pop("sha256") == sha256_of(canonical_json(entry))
    except (KeyError, Fault):
        return None
    return found if is_whole and entry == {**_identity(cache), "columns_sha256": found} else None


def _identity(cache: CheckedCache) -> dict[str, Any]:
    return {"note_version": NOTE_VERSION, "manifest_sha256": cache.manifest.digest()}
