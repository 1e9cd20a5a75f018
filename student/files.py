"""What the student writes and reads of small files: whole or not at all, and a fault is one line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from student.errors import StudentError
from teacher_cache.common.files import disk_faults_told as disk_faults_of
from teacher_cache.common.files import whole_file
from teacher_cache.common.small_files import SmallFiles

FILES = SmallFiles(StudentError)


def disk_faults_told(
    path: Path, kinds: type[Exception] | tuple[type[Exception], ...] = OSError
) -> AbstractContextManager[None]:
    """StudentError that names `path` for every OSError of the block; kinds as in `teacher_cache.common`."""
    return disk_faults_of(path, kinds, StudentError)


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
            # without waiting for a reader, should a pipe lie there
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
            self._stream = os.fdopen(os.open(path, flags, 0o666), "ab")

    def write(self, content: bytes) -> None:
        """Append a piece and hand it to the system."""
        with disk_faults_told(self._path):
            self._stream.write(content)
            self._stream.flush()

    def close(self) -> None:
        """Nothing is appended afterwards."""
        with disk_faults_told(self._path):
            self._stream.close()
