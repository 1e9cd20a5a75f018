"""The rows of a view as one uncompressed file, written once and mapped by every process that reads it.

A header line of JSON, then the columns one behind another. The file is made from the cache, is named after
it, vouches for its own bytes and for the manifest whose receipts its rows were held to, and may be deleted at
any time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np

from teacher_cache.common.files import whole_file
from teacher_cache.common.lock import alone
from teacher_cache.common.small_files import as_text, open_regular, parse_json
from teacher_cache.common.typed import Fault
from teacher_cache.errors import CacheError
from teacher_cache.passages import DIGEST_BYTES
from teacher_cache.store.checked_cache import CheckedCache
from teacher_cache.store.layout import Layout
from teacher_cache.store.manifest import Manifest
from teacher_cache.store.row_source import RowSource
from teacher_cache.store.view import Rows, View, row_columns

MAP_VERSION = 2
HEADER_BYTES = 4096
ALIGNMENT = 64
HASHED_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class MapSections:
    """Where each column lies. sections : name -> (first byte, dtype, shape); num_bytes : of the file."""

    sections: dict[str, tuple[int, str, tuple[int, ...]]]
    num_bytes: int

    @staticmethod
    def of(layout: Layout, view: View) -> MapSections:
        """The columns of `Rows` behind the passages' digests (M, 16) and spans (M, 2)."""
        shapes: dict[str, tuple[str, tuple[int, ...]]] = {
            "digest": ("|u1", (layout.num_passages, DIGEST_BYTES)),
            "span": ("<i8", (layout.num_passages, 2)),
        }
        for name, (dtype, shape) in row_columns(layout, view).items():
            shapes[name] = (dtype, (layout.num_rows, *shape))
        sections, offset = {}, HEADER_BYTES
        for name, (dtype, shape) in shapes.items():
            sections[name] = (offset, dtype, shape)
            size = np.dtype(dtype).itemsize * int(np.prod(shape))
            offset += -(-size // ALIGNMENT) * ALIGNMENT
        return MapSections(sections, offset)


class MappedRows:
    """Rows, digests and spans of a map file that `ensure_map` made; opening copies nothing.

    digest : uint8 (M, 16), ascending     span : int64 (M, 2), first row and the one behind the last
    """

    def __init__(self, path: Path, layout: Layout, view: View) -> None:
        where = MapSections.of(layout, view)
        try:
            if path.stat().st_size != where.num_bytes:  # a map that is too short would end in a signal
                raise CacheError(f"{path}: not {where.num_bytes:,} bytes long; delete it and start again")
            whole = np.memmap(path, np.uint8, mode="r")
        except OSError as error:
            raise CacheError(f"{path}: cannot map ({error.strerror}); start again to write it anew") from None
        columns = {
            name: np.frombuffer(whole, dtype, int(np.prod(shape)), offset).reshape(shape)
            for name, (offset, dtype, shape) in where.sections.items()
        }
        self.digest, self.span = columns["digest"], columns["span"]
        self._rows = Rows(*(columns[part.name] for part in fields(Rows)))

    def rows(self, span: slice) -> Rows:
        """A slice of the map."""
        return self._rows[span]

    def gather(self, spans: np.ndarray) -> Rows:
        """Copied out of the map."""
        return self._rows.gather(spans)


def map_path(folder: Path, fingerprint: str, view: View) -> Path:
    """Where the map of a cache's view lies below a scratch folder."""
    return folder / f"{fingerprint}-{view.name}.map"


def ensure_map(
    path: Path, manifest: Manifest, view: View, opened: Callable[[], tuple[CheckedCache, RowSource]]
) -> None:
    """Let `path` be a sound map: checked where it is there, written where it is not or is damaged.

    manifest : whose receipts the rows were held to; a map of another one is none
    opened : gives the cache and its rows under the view, asked for only where the map has to be written
    Of several processes one writes while the others wait. The file gets its name when it is whole; whoever
    has mapped a replaced one keeps it. Raises CacheError where it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path.with_name(f"{path.name}.lock")):
            if not _is_sound(path, manifest, view):
                _write(path, manifest, view, *opened())
    except OSError as error:
        raise CacheError(
            f"{path}: cannot write the memory map ({error.strerror}); free space, name another folder with "
            "BERT2CTC_SCRATCH, or raise trainer.label_memory_megabytes"
        ) from error


def _write(path: Path, manifest: Manifest, view: View, cache: CheckedCache, source: RowSource) -> None:
    where = MapSections.of(manifest.layout, view)
    with whole_file(path) as stream:
        # The space is claimed first: to run out of it in the middle would take as long as to succeed.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, where.num_bytes)
        stream.truncate(where.num_bytes)
        _put(stream, where, "digest", 0, cache.digests)
        _put(stream, where, "span", 0, cache.spans)
        for span, rows in source.shards():
            for part in fields(rows):
                _put(stream, where, part.name, span.start, getattr(rows, part.name))
        stream.flush()
        header = json.dumps({**_identity(manifest, view), "sha256": _sha256_behind_header(stream)})
        stream.seek(0)
        stream.write(header.encode("ascii").ljust(HEADER_BYTES - 1) + b"\n")


def _put(stream: IO[bytes], where: MapSections, name: str, row: int, values: np.ndarray) -> None:
    offset, dtype, shape = where.sections[name]
    stored = np.ascontiguousarray(values, dtype)
    stream.seek(offset + row * np.dtype(dtype).itemsize * int(np.prod(shape[1:])))
    stream.write(stored.tobytes())


def _is_sound(path: Path, manifest: Manifest, view: View) -> bool:
    """True where the file is this view's map of this manifest, byte for byte as it was written."""
    if not path.is_file() or path.stat().st_size != MapSections.of(manifest.layout, view).num_bytes:
        return False
    try:
        with open_regular(path) as stream:
            header = parse_json(as_text(stream.read(HEADER_BYTES)))
            expected = {**_identity(manifest, view), "sha256": _sha256_behind_header(stream)}
            return bool(header == expected)
    except Fault:
        return False


def _identity(manifest: Manifest, view: View) -> dict[str, Any]:
    return {
        "map_version": MAP_VERSION,
        "fingerprint": manifest.fingerprint,
        "manifest_sha256": manifest.digest(),
        "view": view.name,
    }


def _sha256_behind_header(stream: IO[bytes]) -> str:
    sha256 = hashlib.sha256()
    stream.seek(HEADER_BYTES)
    while block := stream.read(HASHED_BYTES):
        sha256.update(block)
    return sha256.hexdigest()
