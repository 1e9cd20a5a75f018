"""Bytes from elsewhere: a path, HTTP, or whatever fsspec knows, whose errors end here in one line."""

from __future__ import annotations

import errno
import os
import re
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from teacher_cache.common.small_files import NoSuchFile, open_regular
from teacher_cache.common.typed import Fault
from teacher_cache.common.web import open_url
from teacher_cache.errors import CacheError

TIMEOUT_SECONDS = 60.0
EXTRAS = {"s3": "s3", "s3a": "s3", "http": "http", "https": "http"}  # protocol -> extra of pyproject.toml
HTTP = ("http://", "https://")
_ADDRESS = re.compile(r"[a-z0-9+]+://[^\s'\"<>)]+", re.IGNORECASE)


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
                    f"{redacted(self._source)}: ends after {self._done:,} bytes, in the middle; nothing was "
                    "published; fetch it again"
                )
            blocks.append(block)
            left -= len(block)
        return b"".join(blocks)

    def is_over(self) -> bool:
        """True where not one byte is left."""
        return not self._read(1)

    def _read(self, most: int) -> bytes:
        with cache_errors(self._source):
            block: bytes = self._stream.read(most)
        self._done += len(block)
        return block


@contextmanager
def opened(source: str) -> Iterator[Incoming]:
    """The bytes of a local file or a URL; CacheError where it cannot be opened."""
    with cache_errors(source):
        stream = _open(source)
    try:
        yield Incoming(stream, source)
    finally:
        stream.close()


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL and the path in it, without a slash at the end.

    Credentials and endpoints are fsspec's own business (environment, configuration files).
    """
    # encoded: an address is asked for as it was given, or its signature may not fit it any more
    options = {"get_client": _http_client, "encoded": True} if url.startswith(HTTP) else {}
    with cache_errors(url):
        system, path = fsspec.core.url_to_fs(url, **options)
        system.invalidate_cache()
    return system, path.rstrip("/")


def open_object(system: Any, address: str) -> Any:
    """A binary stream of one object; FileNotFoundError where the store says that there is none."""
    if address.startswith(HTTP):  # one plain request: a server need not know sizes and ranges
        return system.open(address, "rb", block_size=0, size=1)
    if isinstance(system, LocalFileSystem):
        return _open_here(address)
    return system.open(address, "rb")


def below(prefix: str, name: str) -> str:
    """The address of `name` below a prefix; the query of a signed HTTP address stays at its end."""
    path, mark, query = prefix.partition("?") if prefix.startswith(HTTP) else (prefix, "", "")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def is_url(reference: str) -> bool:
    """Whether a reference says how to reach a cache, and is no path, name or fingerprint."""
    return "://" in reference


def is_local(source: str) -> bool:
    """Whether a path or URL means something on this machine's disks."""
    return not is_url(source) or source.startswith(("file://", "local://"))


def redacted(source: str) -> str:
    """The source without what may be secret in a URL: user, password and signed query."""
    parts = urllib.parse.urlsplit(source)
    if not is_url(source):
        return source
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@contextmanager
def cache_errors(source: str) -> Iterator[None]:
    """Every store raises its own kinds; whoever fetches a cache sees one."""
    try:
        yield
    except (CacheError, MemoryError):
        raise
    except ImportError as error:
        raise CacheError(f"{redacted(source)}: {_missing_driver(source, error)}") from None
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = _ADDRESS.sub(lambda address: redacted(address[0]), reason)
        if isinstance(error, FileNotFoundError) and reason == redacted(source):
            reason = "404, not found"  # HTTP's driver says the address alone
        raise CacheError(f"{redacted(source)}: {_advice(source, error, reason)}") from error


def _advice(source: str, error: Exception, reason: str) -> str:
    """What failed, and what to look at: for what lies on a disk that is no network."""
    if isinstance(error, Fault):  # of a file here, as `_open_here` tells it
        return f"{reason}; see the path, its permissions and the disk's space"
    if is_local(source):
        reason = getattr(error, "strerror", None) or reason
        return f"cannot be read or written ({reason}); see the path, its permissions and the disk's space"
    return f"cannot be reached ({reason}); check the address, the network and your credentials"


def _open(source: str) -> Any:
    if is_local(source):
        return _open_here(file_system(source)[1] if is_url(source) else source)
    if source.startswith(HTTP):  # one stream needs no connection kept open, so no further package
        return open_url(source, TIMEOUT_SECONDS)
    return fsspec.open(source, "rb").open()


def _open_here(path: str) -> BufferedReader:
    """A regular file of this machine, to be read: a pipe is a Fault, and never waited for."""
    try:
        return open_regular(Path(path))
    except NoSuchFile:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None


async def _http_client(**options: Any) -> Any:
    """Knows proxies and .netrc, and waits for a silent server, not for a large object."""
    import aiohttp

    patience = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_SECONDS, sock_read=TIMEOUT_SECONDS)
    return aiohttp.ClientSession(**{"trust_env": True, "timeout": patience, **options})


def _missing_driver(source: str, error: ImportError) -> str:
    protocol = source.partition("://")[0]
    extra = EXTRAS.get(protocol)
    if extra is None:
        return f"{protocol} needs one more package ({str(error).splitlines()[0]})"
    return f"{extra.upper()} needs one more package; install it with `pip install 'bert2ctc[{extra}]'`"
