"""Lies that a cache can tell: rows and records changed so that what vouches for them agrees."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import zarr

from teacher_cache.common.files import canonical_json, sha256_of
from teacher_cache.store.layout import ROW_ARRAYS
from teacher_cache.store.manifest import read_manifest
from teacher_cache.store.rows import checksum, columns_sha256

Change = Callable[[np.ndarray], object]


def rewrite(path: Path, name: str, change: Change) -> None:
    """Change an array as zarr itself would, so that every codec's checksum holds."""
    array = zarr.open_group(path, mode="r+")[name]
    values = array[:]
    change(values)
    array[:] = values


def edit(path: Path, change: Callable[[dict], object], sign: bool = True) -> None:
    """Change manifest.json, with the hash that belongs to the change where `sign`."""
    entry = json.loads((path / "manifest.json").read_text())
    change(entry)
    if sign:
        entry.pop("sha256", None)
        entry["sha256"] = sha256_of(canonical_json(entry))
    (path / "manifest.json").write_text(json.dumps(entry))


def edit_receipts(path: Path, change: Callable[[dict], object]) -> None:
    """Change every receipt, in receipts/ and in the manifest alike."""
    for file in sorted((path / "receipts").glob("*.json")):
        receipt = json.loads(file.read_text())
        change(receipt)
        file.write_text(json.dumps(receipt) + "\n")

    def change_all(manifest: dict) -> None:
        for receipt in manifest["receipts"]:
            change(receipt)

    edit(path, change_all)


def forge(path: Path, changes: Mapping[str, Change]) -> None:
    """Change rows, and let receipts and manifest tell the same: what a writer without laws would leave."""
    for name, change in changes.items():
        rewrite(path, name, change)
    group, layout = zarr.open_group(path, mode="r"), read_manifest(path).layout

    def vouch(receipt: dict) -> None:
        span = layout.shard_rows(receipt["shard"])
        stored = {name: np.asarray(group[name][span]) for name in ROW_ARRAYS}
        receipt["sha256"] = checksum(stored)
        if receipt.get("columns_sha256"):
            receipt["columns_sha256"] = columns_sha256(stored)

    edit_receipts(path, vouch)


def forge_table(path: Path, name: str, change: Change) -> None:
    """Change a table, and let the manifest tell the same."""
    rewrite(path, name, change)
    digest = hashlib.sha256(np.asarray(zarr.open_group(path, mode="r")[name][:]).tobytes()).hexdigest()
    edit(path, lambda manifest: manifest["tables_sha256"].update({name: digest}))


def as_version_0_1(path: Path) -> Path:
    """The cache as version 0.1 would have published it: one digest of all columns, none of zarr.json."""
    edit_receipts(path, lambda receipt: receipt.pop("columns_sha256"))
    edit(path, lambda manifest: manifest.pop("metadata_sha256"))
    return path


def swap(first: Path, second: Path) -> None:
    """Let two files have each other's content."""
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
