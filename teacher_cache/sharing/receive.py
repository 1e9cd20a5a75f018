"""A cache that somebody else built: received aside, verified whole, published by one rename."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from teacher_cache.common.files import whole_file
from teacher_cache.common.lock import BuildLock
from teacher_cache.common.sizes import megabytes
from teacher_cache.errors import CacheError
from teacher_cache.sharing.file_list import BLOCK_BYTES, Contents, Count, FileFacts, facts_of
from teacher_cache.sharing.transport import Incoming
from teacher_cache.store.manifest import read_manifest
from teacher_cache.store.root import building_path, lock_path
from teacher_cache.store.verify import verify_cache
from teacher_cache.store.writer import publish_as_it_is

RECEIVING_SUFFIX = ".arriving"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ReceivedCache:
    """A published cache; is_new is False where it was there already and was left alone."""

    path: Path
    fingerprint: str
    is_new: bool


def receive_cache(
    root: Path,
    contents: Contents,
    source: str,
    fill: Callable[[Path], None],
    say: Say,
    *,
    goes_on: bool = False,
) -> ReceivedCache:
    """Let `fill` fill a folder with the files of `contents`, verify the cache and publish it.

    An equal fingerprint that is published already is left alone, and `fill` is not called.
    goes_on : whether `fill` can use what an earlier one left: then the folder stays where it broke off
    Raises CacheError, and publishes nothing, where anything is wrong. What is unsound though it came as it
    was listed is removed; whatever else is left behind is listed by `cache gc`.
    """
    target = root / contents.fingerprint
    if target.exists():
        return _there_already(target, say)
    with BuildLock(lock_path(root, contents.fingerprint), say):
        if target.exists():  # published while this process waited for its turn
            return _there_already(target, say)
        process = "" if goes_on else f".{os.getpid()}"
        aside = building_path(root, f"{contents.fingerprint}{process}{RECEIVING_SUFFIX}")
        is_kept = goes_on
        require_space(root, contents.total_bytes - _num_bytes(aside))
        try:
            aside.mkdir(exist_ok=goes_on)
            fill(aside)
            faults = _faults_of(aside, contents.fingerprint)
            if faults:
                is_kept = False
                more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
                raise CacheError(f"{source}: {faults[0]}{more}; nothing was published; ask for a sound copy")
            publish_as_it_is(aside, target)
        except OSError as error:
            raise CacheError(
                f"{aside}: cannot write ({error.strerror or error}); see the disk's space and permissions, "
                "then try again"
            ) from error
        finally:
            if not is_kept:
                shutil.rmtree(aside, ignore_errors=True)
    return ReceivedCache(target, contents.fingerprint, is_new=True)


def receive_file(incoming: Incoming, file: Path, facts: FileFacts, source: str, count: Count) -> None:
    """Write one file of exactly the stated bytes, whole or not at all; CacheError for another sha256."""
    sha256, left = hashlib.sha256(), facts.bytes
    with whole_file(file) as stream:
        while left:
            block = incoming.exactly(min(left, BLOCK_BYTES))
            sha256.update(block)
            stream.write(block)
            left -= len(block)
            count(len(block))
        if sha256.hexdigest() != facts.sha256:
            raise CacheError(
                f"{source}: {file.name} of {file.parent.name}/ is damaged (its sha256 is another one); "
                "nothing was published; fetch it again"
            )


def keep_whole_files(folder: Path, contents: Contents) -> set[str]:
    """Names of the listed files that lie here whole, by size and sha256; everything else is removed."""
    kept = set()
    for file in [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]:
        name = file.relative_to(folder).as_posix()
        facts = contents.files.get(name)
        if facts is not None and not file.is_symlink() and facts_of(file) == facts:
            kept.add(name)
        else:
            file.unlink()
    return kept


def require_space(folder: Path, num_bytes: int) -> None:
    """CacheError where the disk of `folder`, which need not exist yet, has less than that free."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise CacheError(
            f"{folder}: {megabytes(num_bytes)} are needed, {megabytes(free)} are free; free some, or "
            "name another folder"
        )


def _there_already(target: Path, say: Say) -> ReceivedCache:
    fingerprint = read_manifest(target).fingerprint
    say(f"{target} is published already; left as it is")
    return ReceivedCache(target, fingerprint, is_new=False)


def _faults_of(folder: Path, fingerprint: str) -> list[str]:
    faults = verify_cache(folder)
    if not faults and read_manifest(folder).fingerprint != fingerprint:
        faults = [f"it is cache {read_manifest(folder).fingerprint}, and calls itself {fingerprint}"]
    return faults


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
