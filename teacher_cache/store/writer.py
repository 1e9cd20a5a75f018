"""Writes a build, one whole shard at a time with a receipt behind it, and publishes it by one rename."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from teacher_cache.common.files import flush_tree, publish_folder, rename_folder
from teacher_cache.errors import CacheError
from teacher_cache.store.arrays import CacheArrays
from teacher_cache.store.checked_cache import special_pieces, whole_shard
from teacher_cache.store.folder import file_faults, special_files
from teacher_cache.store.laws import fault_of
from teacher_cache.store.layout import Layout
from teacher_cache.store.manifest import (
    MANIFEST,
    Manifest,
    Receipt,
    contents_sha256,
    fingerprint,
    read_manifest,
    read_receipts,
    remove_receipt,
    write_manifest,
    write_receipt,
)
from teacher_cache.store.metadata import metadata_faults, metadata_sha256
from teacher_cache.store.rows import RowBlock, checksum, columns_sha256, encode, mass_at
from teacher_cache.store.verify import shard_fault, table_sha256


class CacheWriter:
    """A build in its folder. Processes may write different shards at once; nothing is locked."""

    def __init__(self, arrays: CacheArrays) -> None:
        self._arrays = arrays
        self.building = arrays.path
        self.layout = arrays.layout

    @staticmethod
    def create(building: Path, layout: Layout) -> CacheWriter:
        """A new build with every array unwritten."""
        return CacheWriter(CacheArrays.create(building, layout))

    @staticmethod
    def open(building: Path) -> CacheWriter:
        """A build that `create` began, in this process or another."""
        return CacheWriter(CacheArrays(building, "r+"))

    def write_shard(self, shard: int, rows: RowBlock, seconds: float = 0.0, device: str = "") -> Receipt:
        """Write every row of one shard, then its receipt; the vocabulary is written before any of them.

        Raises CacheError, and writes nothing, for a wrong number of rows and for rows that break a law.
        """
        span = self.layout.shard_rows(shard)
        fault = fault_of(rows, self.layout, special_pieces(self._arrays))
        if len(rows) != span.stop - span.start:
            fault = f"{len(rows)} rows where the shard has {span.stop - span.start}"
        if fault:
            raise CacheError(
                f"shard {shard}: {fault}; nothing was written; check the teacher's files, then rerun "
                "`bert2ctc cache build`"
            )
        stored = encode(rows, self.layout)
        remove_receipt(self.building, shard)
        for name, values in stored.items():
            region = span if values.ndim == 1 else (span, slice(None))
            self._arrays.write(name, region, values)
        receipt = Receipt(
            shard=shard,
            rows=len(rows),
            sha256=checksum(stored),
            columns_sha256=columns_sha256(stored),
            mass_at=mass_at(rows),
            seconds=seconds,
            device=device,
        )
        write_receipt(self.building, receipt)
        return receipt

    def write_passages(self, start: np.ndarray, length: np.ndarray, digest: np.ndarray) -> None:
        """Write which rows each passage has: start, length (M,) and digest uint8 (M, 16), ascending.

        Raises CacheError where they are unsorted or do not cover every row once, in order.
        """
        contents_sha256(digest)  # refuses what does not ascend
        count, rows = self.layout.num_passages, self.layout.num_rows
        ends = np.cumsum(length, dtype=np.int64)
        whole = len(start) == len(length) == len(digest) == count and np.min(length) > 0
        if not (whole and ends[-1] == rows and np.array_equal(start, ends - length)):
            raise CacheError(
                f"{len(digest)} passages with {int(np.sum(length))} rows do not lie one after another in "
                f"{count} passages with {rows} rows; remove {self.building} and rerun `bert2ctc cache build`"
            )
        self._arrays.write("passage/start", np.s_[:], np.asarray(start, "<i8"))
        self._arrays.write("passage/length", np.s_[:], np.asarray(length, "<i4"))
        self._arrays.write("passage/digest", np.s_[:], digest)

    def write_vocabulary(self, pieces: Sequence[str], is_special: np.ndarray) -> None:
        """Write the teacher's pieces in id order, and bool (V,): which of them are special."""
        if not len(pieces) == len(is_special) == self.layout.vocab_size:
            raise CacheError(
                f"{len(pieces)} pieces where the teacher has {self.layout.vocab_size}; restore its tokenizer "
                "files, then rerun `bert2ctc cache build`"
            )
        encoded = [piece.encode("utf-8") for piece in pieces]
        self._arrays.write_vocabulary_bytes(np.frombuffer(b"".join(encoded), np.uint8))
        ends = np.cumsum([len(piece) for piece in encoded], dtype=np.int64)
        self._arrays.write("vocabulary/end", np.s_[:], ends.astype("<i8"))
        self._arrays.write("vocabulary/is_special", np.s_[:], np.asarray(is_special, np.uint8))

    def receipts(self) -> dict[int, Receipt]:
        """Shard -> receipt of every shard that is written whole."""
        return read_receipts(self.building)


def publish(building: Path, root: Path, manifest: Manifest) -> Path:
    """Check a build against its receipts, write its manifest and rename it to `<root>/<fingerprint>`.

    manifest : without receipts and digests, which are filled in from what lies on the disk
    Returns the published folder. Where it exists already, it is left as it is and the build is removed.
    Raises CacheError, and publishes nothing, for a missing or unequal shard, a foreign fingerprint or a file
    that is none of the format.
    """
    target = root / manifest.fingerprint
    if target.exists():
        read_manifest(target)
        shutil.rmtree(building)
        return target
    arrays = CacheArrays(building)
    receipts = _whole_receipts(arrays, manifest)
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
        metadata_sha256=metadata_sha256(building),
    )
    for partial in building.rglob("*.partial"):
        partial.unlink()  # of a writer that was killed
    _refuse_foreign_files(building, manifest)
    with _publishing(target):
        flush_tree(building)  # the rows reach the disk before the manifest that vouches for them
    write_manifest(building, manifest)
    with _publishing(target):
        rename_folder(building, target)
    return target


def _whole_receipts(arrays: CacheArrays, manifest: Manifest) -> dict[int, Receipt]:
    """The receipts of every shard of a build; CacheError where one is missing or its rows are others."""
    building, receipts = arrays.path, read_receipts(arrays.path)
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
    is_special = special_pieces(arrays)
    for shard, receipt in receipts.items():
        fault = shard_fault(arrays, receipt, is_special)
        if fault:
            raise CacheError(
                f"{building}: {fault}; delete receipts/{shard}.json and rerun `bert2ctc cache build`"
            )
        if not receipt.columns_sha256:  # of version 0.1, which began this build
            columns = columns_sha256(whole_shard(arrays, receipt, is_special))
            receipts[shard] = replace(receipt, columns_sha256=columns)
            write_receipt(building, receipts[shard])
    return receipts


def _refuse_foreign_files(building: Path, manifest: Manifest) -> None:
    """What would be published is exactly the files of a cache, but for the manifest, which comes last."""
    faults = special_files(building) + metadata_faults(building, manifest.layout, {})
    faults += [fault for fault in file_faults(building, manifest.layout) if not fault.startswith(MANIFEST)]
    if faults:
        raise CacheError(f"{building}: {faults[0]}; remove it, then rerun `bert2ctc cache build`")


def publish_as_it_is(folder: Path, target: Path) -> None:
    """Publish a verified cache that has its manifest: flush every file, then rename the folder."""
    with _publishing(target):
        publish_folder(folder, target)


@contextmanager
def _publishing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"{target}: cannot publish ({error.strerror}); see the disk, then rerun `bert2ctc cache build`"
        ) from error
