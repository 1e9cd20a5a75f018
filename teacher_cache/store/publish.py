"""Turns a finished build into a cache: every shard checked, the manifest last, one rename."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from teacher_cache.errors import CacheError
from teacher_cache.store.arrays import CacheArrays
from teacher_cache.store.manifest import Manifest, contents_sha256, fingerprint
from teacher_cache.store.records import read_manifest, read_receipts, write_manifest
from teacher_cache.store.verify import shard_fault, table_sha256


def publish(building: Path, root: Path, manifest: Manifest) -> Path:
    """Check a build against its receipts, write its manifest and rename it to `<root>/<fingerprint>`.

    manifest : without receipts and tables_sha256, which are filled in from what lies on the disk
    Returns the published folder. Where it exists already, it is left as it is and the build is removed.
    Raises CacheError, and publishes nothing, for a missing or unequal shard or a foreign fingerprint.
    """
    target = root / manifest.fingerprint
    if target.exists():
        read_manifest(target)
        shutil.rmtree(building)
        return target
    arrays = CacheArrays(building)
    receipts = read_receipts(building)
    if arrays.layout != manifest.layout:
        raise CacheError(
            f"{building}: built as {arrays.layout}, manifest says {manifest.layout}; remove the build with "
            "`bert2ctc cache gc --yes` and build again"
        )
    missing = [shard for shard in range(arrays.layout.num_shards) if shard not in receipts]
    if missing:
        raise CacheError(
            f"{building}: {len(missing)} of {arrays.layout.num_shards} shards lack a receipt (shard "
            f"{missing[0]} first); rerun `bert2ctc cache build` to finish it"
        )
    for shard, receipt in receipts.items():
        fault = shard_fault(arrays, receipt)
        if fault:
            raise CacheError(
                f"{building}: {fault}; delete receipts/{shard}.json and rerun `bert2ctc cache build`"
            )
    digests = arrays.read("passage/digest")
    found = fingerprint(manifest.recipe, digests)
    if found != manifest.fingerprint:
        raise CacheError(
            f"{building}: its passages and recipe make fingerprint {found}, not {manifest.fingerprint}; "
            "remove the build with `bert2ctc cache gc --yes` and build again"
        )
    manifest = replace(
        manifest,
        receipts=tuple(receipts.values()),
        contents_sha256=contents_sha256(digests),
        tables_sha256=table_sha256(arrays),
    )
    for partial in building.rglob("*.partial"):
        partial.unlink()  # of a writer that was killed
    _flush(building)
    write_manifest(building, manifest)
    _flush_folder(building)
    _rename(building, target)
    return target


def publish_as_it_is(folder: Path, target: Path) -> None:
    """Publish a verified cache that came with its manifest: flush every file, then rename the folder."""
    _flush(folder)
    _flush_folder(folder)
    _rename(folder, target)


def _rename(building: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(building, target)
    except OSError as error:
        raise CacheError(
            f"{target}: cannot publish ({error.strerror}); see the disk, then rerun `bert2ctc cache build`"
        ) from error
    _flush_folder(target.parent)


def _flush(folder: Path) -> None:
    """Rows reach the disk before the name that vouches for them."""
    for path in folder.rglob("*"):
        if path.is_dir():
            _flush_folder(path)
        else:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
