"""The Zarr group of a cache: the only file that knows the storage library, whose errors end here."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.codecs.blosc import Shuffle as BloscShuffle
from zarr.codecs.numcodecs import Delta
from zarr.errors import ZarrUserWarning

from teacher_cache.errors import CacheError
from teacher_cache.store.layout import VOCABULARY_BYTES, ArraySpec, Layout, Shuffle, array_specs, table_spec
from teacher_cache.store.manifest import FORMAT_VERSION

ZSTD_LEVEL = 5
SHUFFLES: dict[Shuffle, BloscShuffle] = {"none": "noshuffle", "bytes": "shuffle", "bits": "bitshuffle"}

Selection = slice | tuple[slice, slice]


class CacheArrays:
    """The arrays of one cache folder by name. Every failure is a CacheError that names folder and array.

    path : the folder     layout : its sizes
    """

    def __init__(self, path: Path, mode: Literal["r", "r+"] = "r") -> None:
        self.path = path
        with _cache_errors(path, "its Zarr group", "open"):
            self._group = zarr.open_group(path, mode=mode, use_consolidated=False)
            attributes = dict(self._group.attrs)
        self._arrays: dict[str, Any] = {}
        if attributes.get("format_version") != FORMAT_VERSION:
            raise CacheError(
                f"{path}: format {attributes.get('format_version')}, this code reads {FORMAT_VERSION}; "
                "rebuild with `bert2ctc cache build`"
            )
        try:
            sizes: Any = attributes["layout"]
            self.layout = Layout(**{**sizes, "temperatures": tuple(sizes["temperatures"])})
        except (KeyError, TypeError) as error:
            raise CacheError(
                f"{path}/zarr.json: damaged layout ({error}); check it with "
                f"`bert2ctc cache verify {shlex.quote(str(path))}`"
            ) from None

    @staticmethod
    def create(path: Path, layout: Layout) -> CacheArrays:
        """Every array of `layout`, unwritten, in a new folder; CacheError where there is one already."""
        with _cache_errors(path, "its Zarr group", "create"):
            path.mkdir(parents=True, exist_ok=True)
            group = zarr.create_group(path)
            for name, spec in array_specs(layout).items():
                _create_array(group, name, spec)
            # Last, so that a folder whose layout can be read holds every array.
            group.attrs.update({"format_version": FORMAT_VERSION, "layout": asdict(layout)})
        return CacheArrays(path, "r+")

    def read(self, name: str, selection: Selection = np.s_[:]) -> np.ndarray:
        """A region of an array, decoded and checked against its stored crc32c.

        A shard that was never written reads as fill values: whoever reads must refuse those.
        """
        with _cache_errors(self.path, name, "read"):
            return np.asarray(self.array(name)[selection])

    def write(self, name: str, selection: Selection, values: np.ndarray) -> None:
        """Write a region; whole shards only, two writers of one shard would lose rows."""
        with _cache_errors(self.path, name, "write"):
            self.array(name)[selection] = values

    def write_vocabulary_bytes(self, values: np.ndarray) -> None:
        """Write `vocabulary/utf8`, the one array whose length no layout gives."""
        with _cache_errors(self.path, VOCABULARY_BYTES, "write"):
            _create_array(self._group, VOCABULARY_BYTES, table_spec(values.shape, "|u1"), overwrite=True)
        self._arrays.pop(VOCABULARY_BYTES, None)
        self.write(VOCABULARY_BYTES, np.s_[:], values)

    def shape_and_dtype(self, name: str) -> tuple[tuple[int, ...], str]:
        """What the file says of an array, for `verify`."""
        with _cache_errors(self.path, name, "open"):
            array = self.array(name)
            return tuple(array.shape), np.dtype(array.dtype).str

    def array(self, name: str) -> Any:
        """The Zarr array itself, opened once."""
        if name not in self._arrays:
            with _known_codecs():
                self._arrays[name] = self._group[name]
        return self._arrays[name]


def _create_array(group: zarr.Group, name: str, spec: ArraySpec, overwrite: bool = False) -> None:
    compressor = BloscCodec(
        cname="zstd",
        clevel=ZSTD_LEVEL,
        shuffle=SHUFFLES[spec.shuffle],
        typesize=np.dtype(spec.dtype).itemsize,
    )
    with _known_codecs():
        group.create_array(
            name,
            shape=spec.shape,
            dtype=spec.dtype,
            chunks=spec.chunks,
            shards=spec.shards,
            fill_value=spec.fill,
            filters=[Delta(dtype=spec.dtype)] if spec.delta else None,
            compressors=[
                compressor,
                Crc32cCodec(),
            ],  # the checksum makes a flipped byte an error, not a label
            overwrite=overwrite,
            # Without it a chunk that equals the fill value is left out, and looks like a lost one.
            config={"write_empty_chunks": True},
        )


@contextmanager
def _known_codecs() -> Iterator[None]:
    """Zarr warns of numcodecs' filters, which version 3 of its format does not name; this one is ours."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Numcodecs codecs are not in the Zarr version 3", ZarrUserWarning)
        yield


@contextmanager
def _cache_errors(path: Path, name: str, act: str) -> Iterator[None]:
    """Codecs, stores and JSON each raise their own kinds; whoever reads a cache sees one."""
    try:
        yield
    except (CacheError, MemoryError):
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        advice = (
            "see the disk's space and permissions, then rerun `bert2ctc cache build`"
            if act in ("write", "create")
            else f"check it with `bert2ctc cache verify {shlex.quote(str(path))}`"
        )
        raise CacheError(f"{path}: cannot {act} {name} ({reason}); {advice}") from error
