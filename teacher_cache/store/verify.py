"""Finds what is wrong with a cache: every array against receipts, manifest and the laws of rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from teacher_cache.errors import CacheError
from teacher_cache.store.arrays import VOCABULARY_BYTES, CacheArrays
from teacher_cache.store.layout import ROW_ARRAYS, TABLE_ARRAYS, ArraySpec, array_specs
from teacher_cache.store.manifest import (
    Manifest,
    Receipt,
    contents_sha256,
    fingerprint,
    read_manifest,
    read_receipts,
)
from teacher_cache.store.rows import checksum, decode, fault_of, mass_at

GROUPS = ("row", "passage", "vocabulary")


def verify_cache(path: Path, *, progress: Callable[[int], object] | None = None) -> list[str]:
    """Every fault of a published cache, one line each; [] where it is sound.

    progress : called with 1 for each shard that was checked
    """
    try:
        manifest = read_manifest(path)
        arrays = CacheArrays(path)
    except CacheError as error:
        return [str(error)]
    faults = _manifest_faults(path, manifest, arrays)
    faults += _shape_faults(arrays)
    if faults:
        return faults  # what follows would only repeat them, less clearly
    faults += _stray_files(path, arrays)
    faults += _table_faults(manifest, arrays)
    for receipt in manifest.receipts:
        fault = shard_fault(arrays, receipt)
        if fault:
            faults.append(fault)
        if progress is not None:
            progress(1)
    return faults


def shard_fault(arrays: CacheArrays, receipt: Receipt) -> str:
    """What is wrong with one shard, in words; "" where rows, checksum and laws hold."""
    name = f"shard {receipt.shard}"
    try:
        span = arrays.layout.shard_rows(receipt.shard)
        stored = {array: arrays.read(array, span) for array in ROW_ARRAYS}
        if receipt.rows != span.stop - span.start:
            return f"{name}: its receipt counts {receipt.rows} rows of {span.stop - span.start}"
        if checksum(stored) != receipt.sha256:
            return f"{name}: its rows are not those of its receipt"
        rows = decode(stored)
    except CacheError as error:
        return f"{name}: {error}"
    fault = fault_of(rows, arrays.layout)
    if fault:
        return f"{name}: {fault}"
    masses = mass_at(rows)
    if masses.keys() != receipt.mass_at.keys() or any(
        abs(masses[k] - receipt.mass_at[k]) > 1e-3 for k in masses
    ):
        return f"{name}: its receipt states another mass at k than its rows have"
    return ""


def table_sha256(arrays: CacheArrays) -> dict[str, str]:
    """Array name -> hexadecimal sha256 of its bytes, for every array outside the row axis."""
    return {name: hashlib.sha256(arrays.read(name).tobytes()).hexdigest() for name in TABLE_ARRAYS}


def _manifest_faults(path: Path, manifest: Manifest, arrays: CacheArrays) -> list[str]:
    faults = []
    if arrays.layout != manifest.layout:
        faults.append(f"zarr.json and manifest.json differ: {arrays.layout} and {manifest.layout}")
    shards = [receipt.shard for receipt in manifest.receipts]
    if shards != list(range(manifest.layout.num_shards)):
        faults.append(
            f"the manifest has receipts of {len(shards)} shards, {manifest.layout.num_shards} needed"
        )
    try:
        if tuple(read_receipts(path).values()) != manifest.receipts:
            faults.append("receipts/ and the manifest's receipts differ")
    except CacheError as error:
        faults.append(str(error))
    return faults


def _shape_faults(arrays: CacheArrays) -> list[str]:
    faults = []
    for name, spec in array_specs(arrays.layout).items():
        try:
            shape, dtype = arrays.shape_and_dtype(name)
        except CacheError as error:
            faults.append(str(error))
            continue
        if shape != spec.shape or np.dtype(dtype) != np.dtype(spec.dtype):
            faults.append(f"{name} is {dtype} {shape}, format 1 says {spec.dtype} {spec.shape}")
    return faults


def _stray_files(path: Path, arrays: CacheArrays) -> list[str]:
    """Files among the arrays that no array has: of another cache, or left by a writer."""
    specs = array_specs(arrays.layout)
    known = {path / array / "zarr.json" for array in (*ROW_ARRAYS, *TABLE_ARRAYS)}
    for array, spec in specs.items():
        known |= {path / array / "c" / name for name in _file_names(spec)}
    known |= {path / group / "zarr.json" for group in GROUPS}
    vocabulary = path / VOCABULARY_BYTES / "c"  # as long as the pieces are: no layout knows how many chunks
    return [
        f"{file.relative_to(path)} belongs to no array"
        for group in GROUPS
        for file in sorted((path / group).rglob("*"))
        if file.is_file() and file not in known and file.parent != vocabulary
    ]


def _file_names(spec: ArraySpec) -> list[str]:
    """The names below c/ of an array's files."""
    files = spec.shards or spec.chunks
    counts = [-(-size // step) for size, step in zip(spec.shape, files, strict=True)]
    return ["/".join(map(str, index)) for index in np.ndindex(*counts)]


def _table_faults(manifest: Manifest, arrays: CacheArrays) -> list[str]:
    try:
        hashes = table_sha256(arrays)
        digests = arrays.read("passage/digest")
        found = fingerprint(manifest.recipe, digests)
        contents = contents_sha256(digests)
        start, length = arrays.read("passage/start"), arrays.read("passage/length")
        ends = arrays.read("vocabulary/end")
        num_bytes = arrays.shape_and_dtype(VOCABULARY_BYTES)[0][0]
    except CacheError as error:
        return [str(error)]
    faults = [
        f"{name} is not what the manifest vouches for"
        for name in TABLE_ARRAYS
        if hashes[name] != manifest.tables_sha256.get(name)
    ]
    if contents != manifest.contents_sha256:
        faults.append("contents_sha256 of the manifest is not that of the passages")
    if found != manifest.fingerprint:
        faults.append(
            f"recipe and passages make fingerprint {found}, the manifest says {manifest.fingerprint}"
        )
    ended = np.cumsum(length, dtype=np.int64)
    if not np.array_equal(start, ended - length) or length.min() < 1 or ended[-1] != manifest.layout.num_rows:
        faults.append("passages do not cover every row once, in order")
    if (np.diff(ends, prepend=0) < 0).any() or ends[-1] != num_bytes:
        faults.append("vocabulary/end does not cut vocabulary/utf8 into pieces")
    return faults
