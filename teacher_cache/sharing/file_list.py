"""What a cache that travels is made of: every file of the format with its size and sha256, and no other."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from teacher_cache.common.files import canonical_json
from teacher_cache.errors import CacheError
from teacher_cache.store.manifest import FINGERPRINT_CHARACTERS, read_manifest

CONTENTS = "contents.json"
CONTENTS_VERSION = 1
MAX_CONTENTS_BYTES = 64 << 20  # half a million files
BLOCK_BYTES = 1 << 20

# No name outside it is ever written, so that no list can reach beyond its folder.
_FILE = re.compile(
    r"(manifest|plan|zarr)\.json"
    r"|receipts/[0-9]+\.json"
    r"|(row|passage|vocabulary)/(zarr\.json|[a-z0-9_]+/(zarr\.json|c(/[0-9]+)+))"
)
_FINGERPRINT = re.compile(f"[0-9a-f]{{{FINGERPRINT_CHARACTERS}}}")
_SHA256 = re.compile("[0-9a-f]{64}")

Count = Callable[[int], object]  # called with the bytes that were handled
Counting = Callable[[int], AbstractContextManager[Count]]  # given how many there will be


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Size and hexadecimal sha256 of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Contents:
    """The files of one cache by their path within it, in sorted order."""

    fingerprint: str
    files: dict[str, FileFacts]

    @property
    def total_bytes(self) -> int:
        """Of all files together."""
        return sum(facts.bytes for facts in self.files.values())

    def to_bytes(self) -> bytes:
        """Canonical JSON with a line's end: equal contents are equal bytes."""
        entry = {
            "contents_version": CONTENTS_VERSION,
            "fingerprint": self.fingerprint,
            "files": {name: asdict(facts) for name, facts in self.files.items()},
        }
        return canonical_json(entry).encode("ascii") + b"\n"

    @staticmethod
    def from_bytes(data: bytes, source: str) -> Contents:
        """The contents that `to_bytes` wrote; CacheError for anything else, and for foreign names."""
        try:
            entry = json.loads(data)
            version = entry["contents_version"]
            files = {name: FileFacts(**facts) for name, facts in sorted(entry["files"].items())}
            contents = Contents(entry["fingerprint"], files)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise CacheError(
                f"{source}: {CONTENTS} lists no cache; fetch it again, or ask its sender to send it again"
            ) from None
        if version != CONTENTS_VERSION:
            raise CacheError(
                f"{source}: contents version {version}, this code reads {CONTENTS_VERSION}; install the "
                "version of bert2ctc that wrote it"
            )
        fault = _fault_of(contents)
        if not fault and contents.to_bytes() != data:
            fault = "is not as it was written"
        if fault:
            raise CacheError(f"{source}: {CONTENTS} {fault}; fetch it again, or refuse who made it")
        return contents


def uncounted(total_bytes: int) -> AbstractContextManager[Count]:
    """A count that nobody sees."""
    return nullcontext(lambda number: None)


def contents_of(path: Path, count: Count = lambda number: None) -> Contents:
    """The contents of a published cache, every file of it read once; CacheError where a file is a link."""
    fingerprint = read_manifest(path).fingerprint
    return Contents(fingerprint, {name: facts_of(path / name, count) for name in names_of(path)})


def facts_of(file: Path, count: Count = lambda number: None) -> FileFacts:
    """Size and sha256 of one file, read once."""
    sha256, size = hashlib.sha256(), 0
    for block in blocks_of(file):
        sha256.update(block)
        size += len(block)
        count(len(block))
    return FileFacts(size, sha256.hexdigest())


def names_of(path: Path) -> list[str]:
    """The paths within a cache of the files that the format knows, sorted; CacheError where one is a link."""
    names = []
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.is_symlink():
            raise CacheError(
                f"{file} is a link, and a cache holds files only; check it with "
                f"`bert2ctc cache verify {shlex.quote(str(path))}`"
            )
        if file.is_file() and _FILE.fullmatch(name):
            names.append(name)
    return sorted(names)


def blocks_of(file: Path) -> Iterator[bytes]:
    """A file's bytes, block by block."""
    with file.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            yield block


def _fault_of(contents: Contents) -> str:
    """What no list of ours says, in words; "" for a sound list."""
    if not isinstance(contents.fingerprint, str) or not _FINGERPRINT.fullmatch(contents.fingerprint):
        return f"names {contents.fingerprint!r} instead of a fingerprint"
    for name, facts in contents.files.items():
        if not _FILE.fullmatch(name):
            return f"lists {name!r}, which is no file of a cache"
        is_size = isinstance(facts.bytes, int) and not isinstance(facts.bytes, bool) and facts.bytes >= 0
        is_hash = isinstance(facts.sha256, str) and _SHA256.fullmatch(facts.sha256)
        if not is_size or not is_hash:
            return f"gives {name!r} no size and sha256"
    return "" if "manifest.json" in contents.files else "lists no manifest.json"
