"""Bytes from elsewhere: a path, HTTP, or whatever fsspec knows, whose errors end here in one line."""

from __future__ import annotations

import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from teacher_cache.errors import CacheError

TIMEOUT_SECONDS = 60.0
S3_PROTOCOLS = ("s3", "s3a")


class Incoming:
    """A binary stream that is read to its end, where too few bytes are an error and never a short answer."""

    def __init__(self, stream: Any, source: str) -> None:
        self._stream, self._source, self._done = stream, source, 0

    def exactly(self, count: int) -> bytes:
        """So many bytes; CacheError where the stream breaks or ends before."""
        blocks, left = [], count
        while left:
            block = self._read(left)
            if not block:
                raise CacheError(
                    f"{shown(self._source)}: ends after {self._done:,} bytes, in the middle; nothing was "
                    "published; fetch it again"
                )
            blocks.append(block)
            left -= len(block)
        return b"".join(blocks)

    def is_over(self) -> bool:
        """True where not one byte is left."""
        return not self._read(1)

    def _read(self, most: int) -> bytes:
        with told(self._source):
            block: bytes = self._stream.read(most)
        self._done += len(block)
        return block


@contextmanager
def opened(source: str) -> Iterator[Incoming]:
    """The bytes of a local file or a URL; CacheError where it cannot be opened."""
    with told(source):
        stream = _open(source)
    try:
        yield Incoming(stream, source)
    finally:
        stream.close()


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL and the path in it, without a slash at the end.

    Credentials and endpoints are fsspec's own business (environment, configuration files).
    """
    with told(url):
        system, path = fsspec.core.url_to_fs(url)
        system.invalidate_cache()
    return system, path.rstrip("/")


def shown(source: str) -> str:
    """The source without what may be secret in a URL: user, password and signed query."""
    parts = urllib.parse.urlsplit(source)
    if "://" not in source:
        return source
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@contextmanager
def told(source: str) -> Iterator[None]:
    """Every store raises its own kinds; whoever fetches a cache sees one."""
    try:
        yield
    except (CacheError, MemoryError):
        raise
    except ImportError as error:
        raise CacheError(f"{shown(source)}: {_missing_driver(source, error)}") from None
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = reason.replace(source, shown(source))
        raise CacheError(
            f"{shown(source)}: cannot be reached ({reason}); check the address, the network and your "
            "credentials"
        ) from error


def _open(source: str) -> Any:
    protocol = source.partition("://")[0] if "://" in source else ""
    if not protocol:
        return Path(source).open("rb")
    if protocol in ("http", "https"):
        return urllib.request.urlopen(source, timeout=TIMEOUT_SECONDS)  # fsspec would need another package
    return fsspec.open(source, "rb").open()


def _missing_driver(source: str, error: ImportError) -> str:
    protocol = source.partition("://")[0]
    if protocol in S3_PROTOCOLS:
        return "S3 needs one more package; install it with `pip install 'bert2ctc[s3]'`"
    return f"{protocol} needs one more package ({str(error).splitlines()[0]})"
