"""A published cache as it is read: what leaves it has been held to manifest, receipts and laws."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from teacher_cache.errors import CacheError
from teacher_cache.store.arrays import CacheArrays
from teacher_cache.store.folder import special_files
from teacher_cache.store.laws import stored_fault, unwritten_fault
from teacher_cache.store.layout import ROW_ARRAYS, TABLE_ARRAYS, VOCABULARY_BYTES, Layout
from teacher_cache.store.manifest import Manifest, Receipt, read_manifest
from teacher_cache.store.metadata import metadata_faults
from teacher_cache.store.rows import RowBlock, checksum, columns_sha256, decode
from teacher_cache.store.tables import pieces_of, tables_faults

ColumnDigests = Mapping[str, Sequence[str]]  # of one shard, as in `Receipt.columns_sha256`


class CheckedCache:
    """The arrays of a published cache. Every fault is a CacheError of one line.

    path : its folder     manifest : read already, or None
    Opening looks at every name in the folder and reads every zarr.json, and no array.
    """

    def __init__(self, path: Path, manifest: Manifest | None = None) -> None:
        self.path = path
        self.manifest = read_manifest(path) if manifest is None else manifest
        self.layout: Layout = self.manifest.layout
        self._refuse([receipts_fault(self.manifest), *special_files(path)])
        self.arrays = CacheArrays(path)
        self._refuse([layouts_fault(self.arrays.layout, self.layout)])
        self._refuse(metadata_faults(path, self.layout, self.manifest.metadata_sha256))

    @cached_property
    def _tables(self) -> dict[str, np.ndarray]:
        tables = {name: self.arrays.read(name) for name in TABLE_ARRAYS}
        self._refuse(
            f"{name} is not what the manifest vouches for" for name in other_tables(tables, self.manifest)
        )
        self._refuse(tables_faults(tables, self.layout, self.manifest.contents_sha256))
        return tables

    @property
    def digests(self) -> np.ndarray:
        """Uint8 (M, 16), ascending: the passages."""
        return self._tables["passage/digest"]

    @cached_property
    def spans(self) -> np.ndarray:
        """Int64 (M, 2): the first row of each passage and the one behind its last."""
        start = self._tables["passage/start"]
        return np.stack([start, start + self._tables["passage/length"]], axis=1)

    @cached_property
    def is_special(self) -> np.ndarray:
        """Bool (V,): pieces that no transcript is made of, and that are never ranked."""
        return self._tables["vocabulary/is_special"].astype(bool)

    @cached_property
    def vocabulary(self) -> list[str]:
        """The teacher's pieces in id order."""
        return pieces_of(self._tables[VOCABULARY_BYTES], self._tables["vocabulary/end"])

    def columns(
        self,
        shard: int,
        wanted: Mapping[str, int],
        vouched: ColumnDigests,
        temperatures: Sequence[float],
    ) -> dict[str, np.ndarray]:
        """The first columns of the wanted arrays of a shard, held to their digests and to the laws.

        wanted : array name -> columns, up to a column chunk's end; 0 for an array without columns
        vouched : digests of that shard's column chunks     temperatures : whose mass is added up
        """
        stored = self.read(self.layout.shard_rows(shard), wanted)
        self.hold(shard, stored, vouched, temperatures)
        return stored

    def hold(
        self,
        shard: int,
        stored: Mapping[str, np.ndarray],
        vouched: ColumnDigests,
        temperatures: Sequence[float],
    ) -> None:
        """CacheError where the columns read of a shard are not those of its receipt, or break a law."""
        found = columns_sha256(stored)
        others = [name for name in found if found[name] != list(vouched.get(name, ()))[: len(found[name])]]
        first_row = self.layout.shard_rows(shard).start
        if others:
            told = f"shard {shard}: {others[0]} is not what its receipt vouches for"
            self._refuse([unwritten_fault(stored, first_row) or told])
        fault = stored_fault(stored, self.layout, self.is_special, temperatures, first_row)
        self._refuse([fault and f"shard {shard}: {fault}"])

    def read(self, rows: slice, wanted: Mapping[str, int]) -> dict[str, np.ndarray]:
        """The first columns of the wanted arrays, as they lie there: nothing is held to anything."""
        return {
            name: self.arrays.read(name, (rows, slice(0, columns)) if columns else rows)
            for name, columns in wanted.items()
        }

    def whole_shard(self, shard: int) -> dict[str, np.ndarray]:
        """Every row array of a shard, held to its receipt and to the laws; whatever the cache's version."""
        try:
            return whole_shard(self.arrays, self.manifest.receipts[shard], self.is_special)
        except CacheError as error:
            self._refuse([str(error)])
            raise

    def rows(self, shard: int) -> RowBlock:
        """The same as rows."""
        return decode(self.whole_shard(shard))

    def _refuse(self, faults: Iterable[str]) -> None:
        told = [fault for fault in faults if fault]
        if told:
            more = f" (and {len(told) - 1} more faults)" if len(told) > 1 else ""
            where = "" if str(self.path) in told[0] else f"{self.path}: "
            command = f"bert2ctc cache verify {shlex.quote(str(self.path))}"
            advice = "" if "cache verify" in told[0] else f"; check the cache with `{command}`"
            raise CacheError(f"{where}{told[0]}{more}{advice}")


def whole_shard(arrays: CacheArrays, receipt: Receipt, is_special: np.ndarray) -> dict[str, np.ndarray]:
    """Every row array of a shard, held to this receipt and to the laws.

    is_special : bool (V,)     Raises CacheError that names the shard.
    """
    name = f"shard {receipt.shard}"
    span = arrays.layout.shard_rows(receipt.shard)
    try:
        stored = {array: arrays.read(array, span) for array in ROW_ARRAYS}
    except CacheError as error:
        raise CacheError(f"{name}: {error}") from None
    if receipt.rows != span.stop - span.start:
        raise CacheError(f"{name}: its receipt counts {receipt.rows} rows of {span.stop - span.start}")
    is_other = checksum(stored) != receipt.sha256
    if is_other or (receipt.columns_sha256 and columns_sha256(stored) != receipt.columns_sha256):
        missing = unwritten_fault(stored, span.start)
        also = f" ({missing})" if missing else ""
        raise CacheError(f"{name}: its rows are not those of its receipt{also}")
    fault = stored_fault(stored, arrays.layout, is_special, first_row=span.start)
    if fault:
        raise CacheError(f"{name}: {fault}")
    return stored


def special_pieces(arrays: CacheArrays) -> np.ndarray:
    """Bool (V,) of a build, whose vocabulary is written before its rows; CacheError where it is not."""
    is_special = arrays.read("vocabulary/is_special")
    if is_special.max() > 1:
        raise CacheError(f"{arrays.path}: its vocabulary was never written; rerun `bert2ctc cache build`")
    return is_special.astype(bool)


def other_tables(tables: Mapping[str, np.ndarray], manifest: Manifest) -> list[str]:
    """The names of tables that are not what the manifest vouches for."""
    digests = {name: hashlib.sha256(values.tobytes()).hexdigest() for name, values in tables.items()}
    return [name for name in TABLE_ARRAYS if digests[name] != manifest.tables_sha256.get(name)]


def receipts_fault(manifest: Manifest) -> str:
    """What is wrong with the manifest's receipts, in words; "" for one of each shard, in order."""
    shards, layout = [receipt.shard for receipt in manifest.receipts], manifest.layout
    if shards == list(range(layout.num_shards)):
        for receipt, span in zip(manifest.receipts, map(layout.shard_rows, shards), strict=True):
            held = span.stop - span.start
            if receipt.rows != held:
                return f"the receipt of shard {receipt.shard} counts {receipt.rows:,} rows of {held:,}"
        vague = [receipt.shard for receipt in manifest.receipts if not _has_digests(receipt)]
        return f"the receipt of shard {vague[0]} holds no digests of column chunks" if vague else ""
    return f"the manifest has receipts of {len(shards)} shards, {layout.num_shards} needed"


def _has_digests(receipt: Receipt) -> bool:
    """Whether the digests of a receipt are lists by array, of every row array or of none."""
    digests: object = receipt.columns_sha256
    if not isinstance(digests, dict) or not all(isinstance(found, list) for found in digests.values()):
        return False
    return not digests or digests.keys() == set(ROW_ARRAYS)


def layouts_fault(arrays: Layout, manifest: Layout) -> str:
    """How arrays and manifest differ, in words; "" where they do not."""
    return "" if arrays == manifest else f"zarr.json and manifest.json differ: {arrays} and {manifest}"
