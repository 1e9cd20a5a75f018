"""A cache below a prefix of an object store: pushed with its manifest last, pulled object by object."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teacher_cache.common.sizes import megabytes
from teacher_cache.errors import CacheError
from teacher_cache.sharing.file_list import (
    BLOCK_BYTES,
    CONTENTS,
    MAX_CONTENTS_BYTES,
    Contents,
    Count,
    Counting,
    blocks_of,
    contents_of,
    uncounted,
)
from teacher_cache.sharing.receive import ReceivedCache, Say, keep_whole_files, receive_cache, receive_file
from teacher_cache.sharing.transport import (
    HTTP,
    Incoming,
    below,
    cache_errors,
    file_system,
    open_object,
    redacted,
)
from teacher_cache.store.manifest import MANIFEST


@dataclass(frozen=True, slots=True)
class PushResult:
    """What a push sent, and what lay there already."""

    url: str
    fingerprint: str
    objects_sent: int
    objects_kept: int
    bytes_sent: int


def push_cache(cache: Path, url: str, count: Count = lambda number: None) -> PushResult:
    """Send a published cache: the list first, then the shards, the manifest last.

    An object that is there with equal bytes is not sent again. count : is called with the bytes of the cache
    twice, once when they are hashed here and once when they are there
    Raises CacheError where the prefix holds another cache, or the store refuses.
    """
    require_writable(url)
    system, prefix = file_system(url)
    contents = contents_of(cache, count)
    _require_own(system, prefix, contents, url)
    with cache_errors(url):
        found = system.find(prefix, detail=True)
    sent, kept, bytes_sent = 0, 0, 0
    listed = contents.to_bytes()
    with cache_errors(url):
        _make_parent(system, f"{prefix}/{CONTENTS}")
        system.pipe_file(f"{prefix}/{CONTENTS}", listed)
    for name in [*(name for name in contents.files if name != MANIFEST), MANIFEST]:
        facts, address = contents.files[name], f"{prefix}/{name}"
        with cache_errors(url):
            if _is_there(system, address, found.get(address), cache / name, facts.sha256):
                kept += 1
            else:
                _make_parent(system, address)
                system.put_file(str(cache / name), address)
                sent, bytes_sent = sent + 1, bytes_sent + facts.bytes
        count(facts.bytes)
    return PushResult(redacted(url), contents.fingerprint, sent, kept, bytes_sent)


def remote_contents(url: str) -> Contents:
    """The list of a pushed cache; CacheError where no manifest says that the push was finished."""
    system, prefix = file_system(url)
    with cache_errors(url):
        manifest = _beginning(system, below(prefix, MANIFEST), 1)
        listed = _beginning(system, below(prefix, CONTENTS), MAX_CONTENTS_BYTES)
    if manifest is None or listed is None:
        raise CacheError(
            f"{redacted(url)}: no {MANIFEST} with its {CONTENTS}, so no cache (an unfinished push goes on "
            "with the very command that began it)"
        )
    return Contents.from_bytes(listed, redacted(url))


def pull_cache(url: str, root: Path, say: Say, counting: Counting = uncounted) -> ReceivedCache:
    """Fetch what is missing of the cache below a prefix, verify the whole and publish it.

    counting : opens a count of so many bytes in all, those that are missing here
    Raises CacheError, and publishes nothing, for a prefix without a manifest and for whatever differs
    from the list that was pushed.
    """
    contents = remote_contents(url)
    system, prefix = file_system(url)

    def fill(folder: Path) -> None:
        whole = keep_whole_files(folder, contents)
        if whole:
            say(f"{_progress_line(whole, contents)} had arrived before and are kept")
        missing = {name: facts for name, facts in contents.files.items() if name not in whole}
        with (
            counting(sum(facts.bytes for facts in missing.values())) as count,
            _telling_what_stays(whole, contents, say),
        ):
            for name, facts in missing.items():
                source = below(url, name)
                with cache_errors(source):
                    stream = open_object(system, below(prefix, name))
                with stream:
                    receive_file(Incoming(stream, source), folder / name, facts, redacted(source), count)
                whole.add(name)

    return receive_cache(root, contents, redacted(url), fill, say, goes_on=True)


def require_writable(url: str) -> None:
    """CacheError for a URL that can be read from only."""
    if url.startswith(HTTP):
        raise CacheError(
            f"{redacted(url)}: nothing can be sent over HTTP; push to s3://BUCKET/PREFIX, or to "
            "file:///FOLDER and let a web server serve that"
        )


def _require_own(system: Any, prefix: str, contents: Contents, url: str) -> None:
    """CacheError where the prefix holds something that is not this cache."""
    with cache_errors(url):
        found = _beginning(system, below(prefix, CONTENTS), MAX_CONTENTS_BYTES)
        if found is None:
            is_foreign = system.exists(below(prefix, MANIFEST))
            there = "a manifest.json that no push wrote"
        else:
            listed = Contents.from_bytes(found, redacted(url))
            is_foreign = listed.fingerprint != contents.fingerprint
            there = f"cache {listed.fingerprint}"
    if is_foreign:
        raise CacheError(
            f"{redacted(url)} holds {there}, not {contents.fingerprint}; push to a prefix of its own: "
            f"`{redacted(url).rstrip('/')}/{contents.fingerprint}`"
        )


def _beginning(system: Any, address: str, most_bytes: int) -> bytes | None:
    """So many bytes of an object or all that it has; None where there is none."""
    try:
        with open_object(system, address) as stream:
            blocks = []
            while most_bytes and (block := stream.read(most_bytes)):
                blocks.append(block)
                most_bytes -= len(block)
            return b"".join(blocks)
    except FileNotFoundError:
        return None


def _is_there(system: Any, address: str, found: Mapping[str, Any] | None, file: Path, sha256: str) -> bool:
    """Whether the object holds the file's bytes: by its MD5 tag where the store keeps one, else read back."""
    if found is None or found.get("size") != file.stat().st_size:
        return False
    tag = str(found.get("ETag", "")).strip('"')
    if tag:
        md5 = hashlib.md5(usedforsecurity=False)  # what object stores tag with; no secret rests on it
        for block in blocks_of(file):
            md5.update(block)
        if md5.hexdigest() == tag:
            return True
    remote = hashlib.sha256()
    with system.open(address, "rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            remote.update(block)
    return remote.hexdigest() == sha256


def _make_parent(system: Any, address: str) -> None:
    """Folders exist in file systems only; in an object store this could make a bucket."""
    protocols = system.protocol if isinstance(system.protocol, tuple) else (system.protocol,)
    if {"file", "local", "sftp", "ssh"} & set(protocols):
        system.makedirs(address.rpartition("/")[0], exist_ok=True)


@contextmanager
def _telling_what_stays(whole: set[str], contents: Contents, say: Say) -> Iterator[None]:
    """Say what stays of a pull that breaks off, whatever broke it."""
    try:
        yield
    except BaseException:
        say(f"{_progress_line(whole, contents)} are here and stay; the same command fetches the others")
        raise


def _progress_line(whole: set[str], contents: Contents) -> str:
    num_bytes = sum(contents.files[name].bytes for name in whole)
    return f"{len(whole):,} of {len(contents.files):,} objects ({megabytes(num_bytes)})"
