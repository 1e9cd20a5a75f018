"""The other ways to keep a teacher's labels that `cache_read.py` compares ours with, at equal content.

Equal content is k ids and k log-probabilities a row, both of 16 bits: what ours stores in `row/top_id` and
`row/top_logprob`. The pickle holds Python's own numbers, as the published recipes leave them.
"""

from __future__ import annotations

import lzma
import pickle
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import zarr
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

STEPS_PER_NAT = np.float32(-1 / 2048)
CHUNK_ROWS = 1024


@dataclass(frozen=True)
class Content:
    """Labels of M passages. ids, steps : uint16 (N, k), steps of -log p     start : int64 (M + 1,)"""

    digests: list[bytes]
    start: np.ndarray
    ids: np.ndarray
    steps: np.ndarray

    def narrowed(self, top_k: int) -> Content:
        narrow = (np.ascontiguousarray(part[:, :top_k]) for part in (self.ids, self.steps))
        return Content(self.digests, self.start, *narrow)


class Labels(Protocol):
    """ids (U, k) and natural log-probabilities (U, k) of one passage."""

    def rows(self, digest: bytes) -> tuple[Any, Any]: ...


class PickledLists:
    """A dictionary of lists of (id, probability) tuples, loaded whole: hfutami, emoASR and their kin."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as stream:
            self.labels: dict[bytes, list[list[tuple[int, float]]]] = pickle.load(stream)

    def rows(self, digest: bytes) -> tuple[np.ndarray, np.ndarray]:
        table = np.array(self.labels[digest])  # (U, k, 2)
        return table[..., 0].astype(np.int32), np.log(table[..., 1], dtype=np.float32)


class RowReads:
    """Rows by slices of two arrays of a store, with the passages' spans in memory."""

    def __init__(self, ids: Any, steps: Any, content: Content) -> None:
        self.ids, self.steps = ids, steps
        self.spans = dict(zip(content.digests, pairwise(content.start.tolist()), strict=True))

    def rows(self, digest: bytes) -> tuple[np.ndarray, np.ndarray]:
        first, last = self.spans[digest]
        return self.ids[first:last].astype(np.int32), self.steps[first:last] * STEPS_PER_NAT


def write_pickle(path: Path, content: Content) -> bytes:
    """One pickle of per-token lists; returns its bytes."""
    probabilities = np.exp(content.steps * STEPS_PER_NAT).tolist()
    ids = content.ids.tolist()
    pairs = [list(zip(*row, strict=True)) for row in zip(ids, probabilities, strict=True)]
    labels = {
        digest: pairs[first:last]
        for digest, (first, last) in zip(content.digests, pairwise(content.start.tolist()), strict=True)
    }
    packed = pickle.dumps(labels, protocol=pickle.HIGHEST_PROTOCOL)
    path.write_bytes(packed)
    return packed


def smallest_pickle(packed: bytes) -> tuple[int, str]:
    """The fewest bytes that the standard library makes of a pickle, and how."""
    sizes = {
        "none": len(packed),
        "zlib 9": len(zlib.compress(packed, 9)),
        "xz": len(lzma.compress(packed, preset=1)),
    }
    name = min(sizes, key=lambda codec: sizes[codec])
    return sizes[name], name


def write_hdf5(path: Path, content: Content, **filters: Any) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, values in (("ids", content.ids), ("steps", content.steps)):
            chunks = (min(CHUNK_ROWS, len(values)), values.shape[1])
            file.create_dataset(name, data=values, chunks=chunks, **filters)


def open_hdf5(path: Path, content: Content) -> RowReads:
    import h5py

    file = h5py.File(path, "r")
    return RowReads(file["ids"], file["steps"], content)


def smallest_hdf5(path: Path, content: Content) -> tuple[int, str]:
    """The fewest bytes over HDF5's own filters, each array with its best shuffle."""
    import h5py

    total, names = 0, []
    for name, values in (("ids", content.ids), ("steps", content.steps)):
        sizes: dict[str, int] = {}
        for shuffle in (False, True):
            for filters in ({"compression": "gzip", "compression_opts": 9}, {"compression": "lzf"}):
                with h5py.File(path, "w") as file:
                    chunks = (min(CHUNK_ROWS, len(values)), values.shape[1])
                    made = file.create_dataset(name, data=values, chunks=chunks, shuffle=shuffle, **filters)
                    shown = f"{filters['compression']}{' shuffled' if shuffle else ''}"
                    sizes[shown] = int(made.id.get_storage_size())
        best = min(sizes, key=lambda codec: sizes[codec])
        total += sizes[best]
        names.append(f"{name} {best}")
    path.unlink()
    return total, ", ".join(names)


def zarr_codecs() -> dict[str, Any]:
    """What plain Zarr offers without our layout."""
    codecs: dict[str, Any] = {"gzip 9": GzipCodec(level=9), "zstd 9": ZstdCodec(level=9)}
    for shuffle in ("noshuffle", "shuffle", "bitshuffle"):
        codecs[f"blosc zstd 9 {shuffle}"] = BloscCodec(cname="zstd", clevel=9, shuffle=shuffle, typesize=2)
    return codecs


def write_zarr(path: Path, content: Content, codec: Any = "auto") -> None:
    group = zarr.open_group(path, mode="w")
    for name, values in (("ids", content.ids), ("steps", content.steps)):
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(min(CHUNK_ROWS, len(values)), values.shape[1]),
            compressors=codec,
        )
        array[:] = values


def open_zarr(path: Path, content: Content) -> RowReads:
    group = zarr.open_group(path, mode="r")
    return RowReads(group["ids"], group["steps"], content)


def smallest_zarr(path: Path, content: Content) -> tuple[int, str]:
    """The fewest bytes over `zarr_codecs`, chosen for each array."""
    sizes: dict[str, dict[str, int]] = {"ids": {}, "steps": {}}
    for shown, codec in zarr_codecs().items():
        write_zarr(path, content, codec)
        for name, found in sizes.items():
            found[shown] = folder_bytes(path / name)
    best = {name: min(found, key=lambda codec: found[codec]) for name, found in sizes.items()}
    return sum(sizes[name][best[name]] for name in sizes), ", ".join(f"{n} {b}" for n, b in best.items())


def folder_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


OPENERS: dict[str, Callable[[Path, Content], Labels]] = {
    "pickle": lambda path, content: PickledLists(path),
    "hdf5": open_hdf5,
    "zarr_rows": open_zarr,
}
