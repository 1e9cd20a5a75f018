"""Laws that every implementation of an idea obeys: writers of whole files, backends that keep rows.

A new writer or backend is one more entry in the list of its test file; nothing here knows who they are.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from teacher_cache.errors import CacheError
from teacher_cache.store.arrays import CacheArrays
from teacher_cache.store.layout import ROW_ARRAYS
from teacher_cache.store.row_backends import RowBackend
from teacher_cache.store.view import Rows, View, rows_of

# What a process asks of the system, or of a library in its name, when it writes.
TOUCHES_THE_DISK = frozenset(
    "open write writelines flush fsync close truncate posix_fallocate mkdir link unlink replace rename "
    "save serialize_file".split()
)
MOST_KILLS = 12
KILLED = 77


@dataclass(frozen=True)
class Writer:
    """Writes one thing below a folder.

    write : version 1 or 2 of it     read : what lies there, None where nothing does
    prepare : what must lie in the folder before it is written
    replaces : False where what is there already is never written again
    """

    write: Callable[[Path, int], object]
    read: Callable[[Path], object]
    prepare: Callable[[Path], object] = lambda folder: None
    replaces: bool = True


def files_below(folder: Path) -> dict[str, bytes] | None:
    """Every file by its path, None where there is no such folder."""
    if not folder.is_dir():
        return None
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def bytes_of(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def law_a_killed_writer_leaves_the_old_or_the_new(writer: Writer, folder: Path) -> None:
    """At any point, and the next one writes the new."""
    begun, old, new = _begun(writer, folder)
    counting = shutil.copytree(begun, folder / "counting")
    points = int(_in_a_child(lambda: str(_calls_until(writer, counting, sys.maxsize)))[1])
    assert points > 2, "nothing is written, so nothing can be interrupted"
    for number in sorted({round(at) for at in np.linspace(1, points, min(points, MOST_KILLS))}):
        copy = shutil.copytree(begun, folder / f"killed-{number}")
        status, _ = _in_a_child(lambda copy=copy, number=number: str(_calls_until(writer, copy, number)))
        assert status == KILLED
        left = writer.read(copy)
        assert left == old or left == new, f"killed at call {number} of {points}"
        if left is None or writer.replaces:
            writer.write(copy, 2)
        assert writer.read(copy) == new


def law_a_full_disk_leaves_the_old_and_one_line(writer: Writer, folder: Path) -> None:
    """Whether it refuses the first byte, one in the middle, or says so when it is asked to keep them."""
    begun, old, new = _begun(writer, folder)
    contents = new.values() if isinstance(new, dict) else [new]
    largest = max(len(content) for content in contents if isinstance(content, bytes))
    for trouble in (lambda: _files_end_at(0), lambda: _files_end_at(largest // 2), _nothing_is_kept):
        copy = shutil.copytree(begun, folder / "full")
        status, told = _in_a_child(lambda copy=copy, trouble=trouble: _told_under(trouble, writer, copy))
        assert (status, told[:12]) == (0, "CacheError: "), told
        assert "\n" not in told, told
        assert any(reason in told for reason in ("File too large", "No space")), told
        assert writer.read(copy) == old
        if not isinstance(new, dict):
            assert not list(copy.rglob("*.partial"))
        writer.write(copy, 2)
        assert writer.read(copy) == new
        shutil.rmtree(copy)


def law_names_follow_bytes_to_the_disk(writer: Writer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What gets its final name was flushed before, and so is the name: a power cut leaves old or new too."""
    begun, _, new = _begun(writer, folder)
    flushed: list[int] = []
    renamed: list[tuple[int, list[int], list[int]]] = []
    fsync = os.fsync

    def noted_fsync(handle: int) -> None:
        flushed.append(os.fstat(handle).st_ino)
        fsync(handle)

    def noted(rename: Callable[..., None]) -> Callable[..., None]:
        def renaming(source: Path, target: Path) -> None:
            files = [Path(source), *Path(source).rglob("*")] if Path(source).is_dir() else [Path(source)]
            inodes = [file.stat().st_ino for file in files]
            rename(source, target)
            renamed.append((Path(target).parent.stat().st_ino, inodes, list(flushed)))

        return renaming

    monkeypatch.setattr(os, "fsync", noted_fsync)
    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, noted(getattr(os, name)))
    writer.write(begun, 2)
    monkeypatch.undo()
    assert writer.read(begun) == new
    assert renamed, "its name was not given by a rename"
    for parent, inodes, before in renamed:
        assert set(inodes) <= set(before)
        assert parent in flushed[len(before) :]


def _begun(writer: Writer, folder: Path) -> tuple[Path, object, object]:
    """A folder as it is before the write, what it holds, and what it shall hold."""
    begun, other = folder / "begun", folder / "other"
    for path in (begun, other):
        path.mkdir(parents=True)
        writer.prepare(path)
    if writer.replaces:
        writer.write(begun, 1)
    writer.write(other, 2)
    old, new = writer.read(begun), writer.read(other)
    assert new is not None and new != old
    return begun, old, new


def _in_a_child(act: Callable[[], str]) -> tuple[int, str]:
    """The exit status of a forked process that does it, and the text that it returns."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on, of threads: it uses none
        child = os.fork()
    if child == 0:
        status = 1
        try:
            text = act()
            sys.setprofile(None)
            os.write(writing, text.encode())
            status = 0
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        text = stream.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def _calls_until(writer: Writer, folder: Path, last: int) -> int:
    """Write, and be gone right before the call of that number which touches the disk; how many there were."""
    count = 0

    def watch(frame: Any, event: str, function: Any) -> None:
        nonlocal count
        if event == "c_call" and getattr(function, "__name__", "") in TOUCHES_THE_DISK:
            count += 1
            if count == last:
                os._exit(KILLED)

    sys.setprofile(watch)
    writer.write(folder, 2)
    sys.setprofile(None)
    return count


def _told_under(trouble: Callable[[], object], writer: Writer, folder: Path) -> str:
    trouble()
    try:
        writer.write(folder, 2)
    except CacheError as error:
        return f"CacheError: {error}"
    return "nothing was told"


def _files_end_at(num_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))


def _nothing_is_kept() -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    os.fsync = full


def law_a_backend_gives_the_rows_of_the_store(
    opened: Callable[[Path, View], RowBackend], cache: Path, view: View, spans: Sequence[slice]
) -> None:
    """Any span, in any order, as often as it is asked for; and no answer changes an earlier one."""
    arrays = CacheArrays(cache)
    whole = rows_of({name: arrays.read(name) for name in ROW_ARRAYS}, arrays.layout, view)
    backend = opened(cache, view)
    answers = [(span, backend.rows(span)) for span in spans]
    for span, found in answers:
        assert_equal_rows(found, whole[span])
        assert_equal_rows(backend.rows(span), found)
        middle = (span.start + span.stop) // 2
        if span.start < middle:
            halves = [backend.rows(slice(span.start, middle)), backend.rows(slice(middle, span.stop))]
            assert_equal_rows(Rows.concatenate(halves), found)
    for some in (spans, spans[::-1], [spans[0]], [spans[0], slice(7, 7), spans[0]]):
        gathered = backend.gather(np.array([(span.start, span.stop) for span in some]))
        assert_equal_rows(gathered, Rows.concatenate([whole[span] for span in some]))
    assert_equal_rows(backend.gather(np.zeros((0, 2), np.int64)), whole[slice(0, 0)])


def law_a_backend_refuses_rows_of_no_receipt(
    opened: Callable[[Path, View], RowBackend], damaged: Path, view: View, row: int, said: str
) -> None:
    """At the latest when such a row is asked for, in one line; damaged : a cache whose `row` is another"""
    with pytest.raises(CacheError, match=said) as told:
        opened(damaged, view).rows(slice(row, row + 1))
    assert "\n" not in str(told.value)


def assert_equal_rows(one: Rows, other: Rows) -> None:
    for name in Rows.__dataclass_fields__:
        left, right = getattr(one, name), getattr(other, name)
        assert (left.dtype, left.shape) == (right.dtype, right.shape), name
        np.testing.assert_array_equal(left, right, err_msg=name)
