"""One file over HTTP, or from a disk: broken transfers go on where they stopped, and the checksum decides."""

from __future__ import annotations

import errno
import hashlib
import http.client
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import PipelineError
from teacher_cache.common.progress import Advance, progress
from teacher_cache.common.sizes import MEGABYTE, megabytes
from teacher_cache.common.small_files import NoSuchFile, open_regular
from teacher_cache.common.typed import Fault
from teacher_cache.common.web import open_url

LOCAL = "file://"
_BLOCK_BYTES = 1 << 18
_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)  # no retry mends them


@dataclass(frozen=True, slots=True)
class Patience:
    """When a transfer gives up: so many tries in a row that bring nothing, with doubling pauses between."""

    tries: int = 6
    first_pause_seconds: float = 1.0
    timeout_seconds: float = 60.0


class _Unusable(Exception):
    """The server's answer cannot be appended; try again."""


def fetch(url: str, partial: BinaryIO, expected_bytes: int, patience: Patience) -> None:
    """Append to `partial` (open for reading and writing) what is missing of the file at `url`.

    Goes on from the bytes that are there by an HTTP range, and starts over where the server sends the
    whole file instead. Raises PipelineError when the server refuses, when its patience is over, or where a
    file:// address cannot be read; what came is kept.
    """
    if url.startswith(LOCAL):
        _require_file(url)
    have = partial.seek(0, 2)
    failures = 0
    with progress(
        f"fetching {url.rpartition('/')[2]}", total=expected_bytes / MEGABYTE, unit="MB"
    ) as advance:
        advance(have / MEGABYTE)
        while True:
            try:
                if _append(url, partial, advance, patience.timeout_seconds):
                    return
                reason = "the connection was cut"
            except urllib.error.HTTPError as error:
                error.close()
                if error.code < 500 and error.code not in (408, 429):
                    raise PipelineError(f"{url}: the server answers {error.code} {error.reason}") from None
                reason = f"the server answers {error.code}"
            except (OSError, http.client.HTTPException, _Unusable) as error:
                if getattr(error, "errno", None) in _DISK_FAULTS:
                    raise
                reason = _reason(error)
                if url.startswith(LOCAL):  # a disk mends nothing within the pauses of a network
                    raise PipelineError(
                        f"{url}: cannot be read ({reason}); see the path given as --base-url"
                    ) from None
            now = partial.seek(0, 2)
            failures = 0 if now > have else failures + 1
            have = now
            if failures >= patience.tries:
                raise PipelineError(
                    f"{url}: {reason}, {failures} times in a row; {megabytes(have)} are kept, run "
                    "the same command again to go on"
                )
            time.sleep(patience.first_pause_seconds * 2**failures)


def has_checksum(partial: BinaryIO, checksum: str) -> bool:
    """True where the file's content has the checksum `<hashlib name>:<hex>`."""
    kind, _, expected = checksum.partition(":")
    digest = hashlib.new(kind)
    total = partial.seek(0, 2)
    partial.seek(0)
    with progress("verifying", total=total / MEGABYTE, unit="MB") as advance:
        while block := partial.read(_BLOCK_BYTES):
            digest.update(block)
            advance(len(block) / MEGABYTE)
    return digest.hexdigest() == expected


def _reason(error: Exception) -> str:
    """What went wrong in words; urllib wraps the error of the system in one of its own."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


def _require_file(url: str) -> None:
    """PipelineError where a file:// address names a pipe or a device: urllib would wait for it."""
    path = Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
    try:
        open_regular(path).close()
    except NoSuchFile:
        return  # told by who reads it, as any other fault of the disk
    except Fault as fault:
        raise PipelineError(f"{url}: {fault}; see the path given as --base-url") from None


def _append(url: str, partial: BinaryIO, advance: Advance, timeout_seconds: float) -> bool:
    """One request; True when the file is complete."""
    have = partial.seek(0, 2)
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = open_url(request, timeout_seconds)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing lies beyond what we have: complete, unless it is too long
            error.close()
            return _after_the_end(error, partial, have, advance)
        raise
    with response:
        total = _seek_to(response, partial, have, advance)
        while block := response.read(_BLOCK_BYTES):
            partial.write(block)
            advance(len(block) / MEGABYTE)
        partial.flush()
    # A server that gave no length leaves the judgement to the checksum.
    return total is None or partial.tell() == total


def _seek_to(
    response: http.client.HTTPResponse, partial: BinaryIO, have: int, advance: Advance
) -> int | None:
    """Put the file where the answer's first byte belongs; the whole file's length, where it is given."""
    length = response.headers.get("Content-Length")
    if response.status == 206:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if span is None or int(span[1]) != have:
            raise _Unusable(f"the server sends another range than from {have}")
        return int(span[2])
    if have:  # the range was ignored: this is the file from its first byte
        _start_over(partial, have, advance)
    return None if length is None else int(length)


def _after_the_end(error: urllib.error.HTTPError, partial: BinaryIO, have: int, advance: Advance) -> bool:
    total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
    if total == str(have):
        return True
    _start_over(partial, have, advance)
    raise _Unusable(f"there were {have} bytes, more than the file's {total or 'own'}; started over")


def _start_over(partial: BinaryIO, have: int, advance: Advance) -> None:
    partial.seek(0)
    partial.truncate()
    advance(-have / MEGABYTE)
