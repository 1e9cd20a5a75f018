"""A cache as one file: a tar whose first member vouches for all others, equal bytes for equal caches.

It is read back without trust: whatever differs by a byte from what `pack_cache` would write is refused.
"""

from __future__ import annotations

import hashlib
import shlex
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from teacher_cache.common.files import disk_faults_told, whole_file
from teacher_cache.errors import CacheError
from teacher_cache.sharing.file_list import (
    CONTENTS,
    MAX_CONTENTS_BYTES,
    MAX_FILE_BYTES,
    Contents,
    Count,
    Counting,
    blocks_of,
    contents_of,
    uncounted,
)
from teacher_cache.sharing.receive import ReceivedCache, Say, receive_cache, receive_file, require_space
from teacher_cache.sharing.transport import Incoming

_END = bytes(2 * tarfile.BLOCKSIZE)  # of a tar


@dataclass(frozen=True, slots=True)
class PackedCache:
    """One archive: where it lies, its size and the sha256 of the whole file."""

    path: Path
    fingerprint: str
    bytes: int
    sha256: str


def pack_cache(cache: Path, target: Path, count: Count = lambda number: None) -> PackedCache:
    """Write a published cache as one new file, under a partial name until it is whole.

    count : is called with the bytes of the cache twice, once when they are hashed and once when written
    Raises CacheError for an existing target, too little space, or a cache that changes meanwhile.
    """
    if target.exists() or target.is_symlink():
        raise CacheError(f"{target} exists; name another file, or remove it first")
    if not target.absolute().parent.is_dir():
        raise CacheError(f"{target.absolute().parent} is no folder; make it, or name another file")
    contents = contents_of(cache, count)
    require_space(target.absolute().parent, contents.total_bytes)
    sha256, size = hashlib.sha256(), 0
    with disk_faults_told(target), whole_file(target) as stream:
        for block in _archive(cache, contents, count):
            stream.write(block)
            sha256.update(block)
            size += len(block)
    return PackedCache(target, contents.fingerprint, size, sha256.hexdigest())


def unpack_archive(
    incoming: Incoming, source: str, root: Path, say: Say, counting: Counting = uncounted
) -> ReceivedCache:
    """Publish the cache of an archive that comes as a stream.

    counting : opens a count of so many bytes in all
    Raises CacheError, and publishes nothing, for every byte that `pack_cache` would not have written.
    """
    contents = _read_contents(incoming, source)

    def fill(folder: Path) -> None:
        with counting(contents.total_bytes) as count:
            for name, facts in contents.files.items():
                _require_header(incoming, f"{contents.fingerprint}/{name}", facts.bytes, source)
                receive_file(incoming, folder / name, facts, source, count)
                padding = bytes(_padding(facts.bytes))
                _require(incoming.exactly(len(padding)) == padding, source, f"after {name}")
        _require(incoming.exactly(len(_END)) == _END, source, "at its end")
        _require(incoming.is_over(), source, "behind its end")

    return receive_cache(root, contents, source, fill, say)


def _archive(cache: Path, contents: Contents, count: Count) -> Iterator[bytes]:
    """Every byte of the archive, in order."""
    listed = contents.to_bytes()
    yield _header(CONTENTS, len(listed)) + listed + bytes(_padding(len(listed)))
    for name, facts in contents.files.items():
        yield _header(f"{contents.fingerprint}/{name}", facts.bytes)
        sha256 = hashlib.sha256()
        for block in blocks_of(cache / name):
            sha256.update(block)
            yield block
            count(len(block))
        if sha256.hexdigest() != facts.sha256:
            raise CacheError(
                f"{cache / name} changed while it was packed; check it with "
                f"`bert2ctc cache verify {shlex.quote(str(cache))}`"
            )
        yield bytes(_padding(facts.bytes))
    yield _END


def _header(name: str, size: int) -> bytes:
    """512 bytes: a plain file of nobody, from no time, so that equal caches make equal archives."""
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.USTAR_FORMAT)


def _padding(size: int) -> int:
    return -size % tarfile.BLOCKSIZE


def _read_contents(incoming: Incoming, source: str) -> Contents:
    header = incoming.exactly(tarfile.BLOCKSIZE)
    member = _member(header)
    is_contents = member is not None and member.name == CONTENTS and 0 <= member.size <= MAX_FILE_BYTES
    if member is None or not is_contents or header != _header(CONTENTS, member.size):
        raise CacheError(
            f"{source}: no packed cache (it does not begin with {CONTENTS}); give a file that "
            "`cache pack` wrote"
        )
    if member.size > MAX_CONTENTS_BYTES:
        raise CacheError(f"{source}: {CONTENTS} of {member.size:,} bytes is beyond {MAX_CONTENTS_BYTES:,}")
    listed = incoming.exactly(member.size)
    _require(
        incoming.exactly(_padding(member.size)) == bytes(_padding(member.size)), source, f"after {CONTENTS}"
    )
    return Contents.from_bytes(listed, source)


def _require_header(incoming: Incoming, name: str, size: int, source: str) -> None:
    """The next member is exactly the one that the contents announce, or it is said what it is instead."""
    header = incoming.exactly(tarfile.BLOCKSIZE)
    if header == _header(name, size):
        return
    member = _member(header)
    if member is None:
        found = "damaged bytes"
    elif not member.isreg():
        found = f"{member.name!r}, a link, folder or device"
    else:
        found = f"{member.name!r} of {member.size:,} bytes"
    raise CacheError(
        f"{source}: holds {found} where its list has {name!r} of {size:,} bytes; nothing was published; "
        "fetch it again, or refuse who made it"
    )


def _member(header: bytes) -> tarfile.TarInfo | None:
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "backslashreplace")
    except tarfile.HeaderError:
        return None


def _require(is_sound: bool, source: str, where: str) -> None:
    if not is_sound:
        raise CacheError(f"{source}: damaged {where}; nothing was published; fetch it again")
