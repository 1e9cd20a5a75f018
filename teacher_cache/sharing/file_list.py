"""What a cache that travels is made of: every file of the format with its size and sha256, and no other."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from teacher_cache.common.files import FILES, canonical_json
from teacher_cache.common.small_files import as_text, parse_object
from teacher_cache.common.typed import typed
from teacher_cache.errors import CacheError
from teacher_cache.settings import shown_value
from teacher_cache.store.manifest import FINGERPRINT_CHARACTERS, read_manifest

CONTENTS = "contents.json"
CONTENTS_VERSION = 1
MAX_FILE_BYTES = (8 << 30) - 1  # what the header of a tar can say; shards are a thousandth of it
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
        advice = f"{CONTENTS} lists no cache; fetch it again, or ask its sender to send it again"
        with FILES.faults_told(source, advice):
            entry = parse_object(as_text(data))
            if (version := entry.pop("contents_version", None)) != CONTENTS_VERSION:
                raise CacheError(
                    f"{source}: contents version {shown_value(version)}, this code reads {CONTENTS_VERSION}; "
                    "install the version of bert2ctc that wrote it"
                )
            contents = typed(Contents, entry)
        contents = replace(contents, files=dict(sorted(contents.files.items())))
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
    if not _FINGERPRINT.fullmatch(contents.fingerprint):
        return f"names {shown_value(contents.fingerprint)} instead of a fingerprint"
    for name, facts in contents.files.items():
        if not _FILE.fullmatch(name):
            return f"lists {shown_value(name)}, which is no file of a cache"
        if not 0 <= facts.bytes <= MAX_FILE_BYTES or not _SHA256.fullmatch(facts.sha256):
            return f"gives {name!r} no size and sha256"
    return "" if "manifest.json" in contents.files else "lists no manifest.json"
