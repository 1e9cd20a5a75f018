"""Files written whole or not at all, durably; JSON that is equal where its values are; `FILES` reads."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from teacher_cache.common.small_files import SmallFiles, open_regular
from teacher_cache.errors import CacheError

FILES = SmallFiles(CacheError)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A stream, to be read and written, whose bytes become the file `path` when the block ends without error.

    Until then they lie under a partial name, and `path` is what it was. File and name have reached the disk
    when this returns. Raises OSError where they cannot, and leaves no partial name behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


@contextmanager
def disk_faults_told(
    path: Path,
    kinds: type[Exception] | tuple[type[Exception], ...] = OSError,
    told_as: type[Exception] = CacheError,
) -> Iterator[None]:
    """`told_as`, a package's exception, for every OSError of the block: a full disk, a quota, a mode.

    kinds : what the block raises for a disk's fault, where a library hides the OSError
    """
    try:
        yield
    except told_as:
        raise
    except kinds as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise told_as(
            f"{path}: cannot be written ({reason}); free space or see its permissions, and run the same "
            "command again; what was written before is whole"
        ) from error


def write_whole(path: Path, text: str) -> None:
    """Write a small text file whole or not at all; CacheError where it cannot."""
    with disk_faults_told(path), whole_file(path) as stream:
        stream.write(text.encode("utf-8", errors="backslashreplace"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write one JSON object for people and programs, whole or not at all."""
    write_whole(path, json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def publish_folder(folder: Path, target: Path) -> None:
    """Let a finished folder appear as `target`, whole: its files reach the disk before the name does.

    Raises OSError where they cannot, or where `target` is there and not empty.
    """
    flush_tree(folder)
    rename_folder(folder, target)


def rename_folder(folder: Path, target: Path) -> None:
    """Rename a folder that `flush_tree` has been through; its new name has reached the disk on return."""
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(folder, target)
    flush_folder(target.parent)


def flush_tree(folder: Path) -> None:
    """Wait until every file and folder below, and the folder itself, has reached the disk."""
    for path in folder.rglob("*"):
        if path.is_dir():
            flush_folder(path)
        else:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    flush_folder(folder)


def flush_folder(folder: Path) -> None:
    """Wait until the names in a folder have reached the disk, where the file system knows how to."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and ASCII only, so that equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a regular file's bytes. Raises Fault where it is none, OSError on a torn disk."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of(text: str) -> str:
    """Hexadecimal sha256 of UTF-8 text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
