"""The files of a cache: exactly those of the format, and regular files only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from teacher_cache.store.layout import VOCABULARY_BYTES, ArraySpec, Layout, array_specs, table_spec
from teacher_cache.store.manifest import MANIFEST, RECEIPTS
from teacher_cache.store.metadata import GROUPS, METADATA_FILES, vocabulary_bytes

OPTIONAL_FILES = ("plan.json",)

_PLAIN = ("file", "folder")


def special_files(path: Path) -> list[str]:
    """One line for each link, FIFO, socket or device below a cache's folder: opening one may never end."""
    try:
        return [
            f"{name} is neither a file nor a folder but a {kind}"
            for name, kind in _entries(path)
            if kind not in _PLAIN
        ]
    except OSError as error:
        return [f"{error.filename or path}: cannot be looked at ({error.strerror})"]


def file_faults(path: Path, layout: Layout) -> list[str]:
    """One line for each file of the format that is missing, and for each that is none of the format.

    A folder that is none of it is told where it is empty, and else by its files.
    """
    entries = list(_entries(path))
    found = {name for name, kind in entries if kind == "file"}
    arrays = _array_files(path, layout)
    wanted = {MANIFEST, *METADATA_FILES, *arrays}
    wanted |= {f"{RECEIPTS}/{shard}.json" for shard in range(layout.num_shards)}
    folders = {str(folder) for name in found | wanted for folder in PurePosixPath(name).parents}
    return [
        *(f"{name} is missing" for name in sorted(wanted - found)),
        *(
            f"{name} belongs to no array"
            if name.partition("/")[0] in GROUPS
            else f"{name} is no file of a cache"
            for name in sorted(found - wanted - set(OPTIONAL_FILES))
        ),
        *(f"{name} is an empty folder" for name, kind in entries if kind == "folder" and name not in folders),
    ]


def _array_files(path: Path, layout: Layout) -> set[str]:
    specs: dict[str, ArraySpec] = array_specs(layout)
    specs[VOCABULARY_BYTES] = table_spec((max(vocabulary_bytes(path), 1),), "|u1")
    return {f"{array}/c/{name}" for array, spec in specs.items() for name in _chunk_names(spec)}


def _chunk_names(spec: ArraySpec) -> list[str]:
    """The names below c/ of an array's files."""
    files = spec.shards or spec.chunks
    counts = [-(-size // step) for size, step in zip(spec.shape, files, strict=True)]
    return ["/".join(map(str, index)) for index in np.ndindex(*counts)]


def _entries(path: Path, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Path within the folder and kind of everything below it; no link is followed, nothing is opened."""
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = f"{prefix}{entry.name}"
            if entry.is_symlink():
                yield name, "link"
            elif entry.is_dir(follow_symlinks=False):
                yield name, "folder"
                yield from _entries(Path(entry.path), f"{name}/")
            else:
                yield name, "file" if entry.is_file(follow_symlinks=False) else "FIFO, socket or device"
