"""Finds what is wrong with a cache: every file, array and row against receipts, manifest and the laws."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from teacher_cache.errors import CacheError
from teacher_cache.store.arrays import CacheArrays
from teacher_cache.store.checked_cache import (
    layouts_fault,
    other_tables,
    receipts_fault,
    special_pieces,
    whole_shard,
)
from teacher_cache.store.folder import file_faults, special_files
from teacher_cache.store.layout import TABLE_ARRAYS
from teacher_cache.store.manifest import Manifest, Receipt, read_manifest, read_receipts
from teacher_cache.store.metadata import metadata_faults
from teacher_cache.store.rows import decode, mass_at
from teacher_cache.store.tables import tables_faults

MASS_DIFFERENCE = 1e-3  # between the mass at k that a receipt states and that of its rows


def verify_cache(path: Path, *, progress: Callable[[int], object] | None = None) -> list[str]:
    """Every fault of a published cache, one line each; [] where it is sound.

    progress : called with 1 for each shard that was checked
    """
    try:
        manifest = read_manifest(path)
        faults = special_files(path)
        if faults:
            return faults  # to open one of them may never end
        arrays = CacheArrays(path)
    except CacheError as error:
        return [str(error)]
    faults = _manifest_faults(path, manifest, arrays)
    faults += metadata_faults(path, arrays.layout, manifest.metadata_sha256)
    if faults:
        return faults  # what follows would only repeat them, less clearly
    faults += file_faults(path, arrays.layout)
    faults += _table_faults(manifest, arrays)
    try:
        is_special = special_pieces(arrays)
    except CacheError as error:
        return [*faults, str(error)]
    for receipt in manifest.receipts:
        fault = shard_fault(arrays, receipt, is_special)
        if fault:
            faults.append(fault)
        if progress is not None:
            progress(1)
    return faults


def shard_fault(arrays: CacheArrays, receipt: Receipt, is_special: np.ndarray) -> str:
    """What is wrong with one shard, in words; "" where rows, receipt and laws hold.

    is_special : bool (V,), of the vocabulary
    """
    try:
        rows = decode(whole_shard(arrays, receipt, is_special))
    except CacheError as error:
        return str(error)
    masses = mass_at(rows)
    if masses.keys() != receipt.mass_at.keys() or any(
        abs(masses[k] - receipt.mass_at[k]) > MASS_DIFFERENCE for k in masses
    ):
        return f"shard {receipt.shard}: its receipt states another mass at k than its rows have"
    return ""


def table_sha256(arrays: CacheArrays) -> dict[str, str]:
    """Array name -> hexadecimal sha256 of its bytes, for every array outside the row axis."""
    return {name: hashlib.sha256(arrays.read(name).tobytes()).hexdigest() for name in TABLE_ARRAYS}


def _manifest_faults(path: Path, manifest: Manifest, arrays: CacheArrays) -> list[str]:
    faults = [layouts_fault(arrays.layout, manifest.layout), receipts_fault(manifest)]
    try:
        if tuple(read_receipts(path).values()) != manifest.receipts:
            faults.append("receipts/ and the manifest's receipts differ")
    except CacheError as error:
        faults.append(str(error))
    return [fault for fault in faults if fault]


def _table_faults(manifest: Manifest, arrays: CacheArrays) -> list[str]:
    try:
        tables = {name: arrays.read(name) for name in TABLE_ARRAYS}
    except CacheError as error:
        return [str(error)]
    others = [f"{name} is not what the manifest vouches for" for name in other_tables(tables, manifest)]
    return others + tables_faults(tables, arrays.layout, manifest.contents_sha256)
