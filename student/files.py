"""What the student writes: whole or not at all, durably, and a disk that refuses is one line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from student.errors import StudentError
from teacher_cache.common.files import whole_file


@contextmanager
def disk_faults_told(
    path: Path, kinds: type[Exception] | tuple[type[Exception], ...] = OSError
) -> Iterator[None]:
    """StudentError that names `path` for every OSError of the block: a full disk, a quota, a mode.

    kinds : what the block raises for a disk's fault, where a library hides the OSError
    """
    try:
        yield
    except StudentError:
        raise
    except kinds as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise StudentError(
            f"{path}: cannot be written ({reason}); free space or see its permissions, and run the same "
            "command again; what was written before is whole"
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; StudentError where it cannot."""
    with disk_faults_told(path), whole_file(path) as stream:
        stream.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file whole or not at all; StudentError where it cannot."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write one JSON object for people and programs, whole or not at all; StudentError where it cannot."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


class AppendedFile:
    """A file that grows piece by piece; StudentError where the disk refuses one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with disk_faults_told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("ab")

    def write(self, content: bytes) -> None:
        """Append a piece and hand it to the system."""
        with disk_faults_told(self._path):
            self._stream.write(content)
            self._stream.flush()

    def close(self) -> None:
        """Nothing is appended afterwards."""
        with disk_faults_told(self._path):
            self._stream.close()
