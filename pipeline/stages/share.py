"""The stages of `bert2ctc cache pack | unpack | push | pull`: a cache leaves, and a cache comes in."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from pipeline.console import Report, say
from pipeline.errors import PipelineError
from pipeline.paths import Roots
from pipeline.stages.cache import verify_teacher_cache
from teacher_cache import store
from teacher_cache.common.progress import progress
from teacher_cache.common.sizes import MEGABYTE, megabytes
from teacher_cache.sharing.file_list import Count, names_of
from teacher_cache.sharing.receive import ReceivedCache


def pack_teacher_cache(reference: str, file: Path, roots: Roots) -> Report:
    """One file of a verified cache, with the sha256 of the whole."""
    from teacher_cache.sharing.archive import pack_cache

    if file.exists():  # before minutes are spent on verifying
        raise PipelineError(f"{file} exists; name another file, or remove it first")
    path, started = _sound(reference, roots), time.monotonic()
    with _bar("packing", 2 * _bytes_of(path)) as count:
        packed = pack_cache(path, file, count)
    result = {**asdict(packed), "path": str(packed.path), "seconds": time.monotonic() - started}
    return Report(result, [f"{file}: {megabytes(packed.bytes)}, sha256 {packed.sha256}"])


def unpack_teacher_cache(source: str, name: str, roots: Roots) -> Report:
    """The cache of an archive, published; under a name too, which is checked before anything is read."""
    from teacher_cache.sharing.archive import unpack_archive
    from teacher_cache.sharing.transport import opened, redacted

    _require_name(name)
    with opened(source) as incoming:
        arrival = unpack_archive(incoming, redacted(source), roots.cache, say, partial(_bar, "unpacking"))
    return _arrived(arrival, name, roots)


def push_teacher_cache(reference: str, url: str, roots: Roots) -> Report:
    """A verified cache below a prefix of an object store."""
    from teacher_cache.sharing.object_store import push_cache, require_writable

    require_writable(url)  # before minutes are spent on verifying
    path, started = _sound(reference, roots), time.monotonic()
    with _bar("pushing", 2 * _bytes_of(path)) as count:
        pushed = push_cache(path, url, count)
    result = {**asdict(pushed), "seconds": time.monotonic() - started}
    sent = f"{pushed.objects_sent:,} objects sent, {pushed.objects_kept:,} were there already"
    return Report(result, [f"{pushed.url}: {sent}", f"next: `bert2ctc cache pull {shlex.quote(pushed.url)}`"])


def pull_teacher_cache(url: str, name: str, roots: Roots) -> Report:
    """The cache below a prefix, published as by `unpack_teacher_cache`; an interrupted pull goes on."""
    from teacher_cache.sharing.object_store import pull_cache

    _require_name(name)
    arrival = pull_cache(url, roots.cache, say, partial(_bar, "pulling"))
    return _arrived(arrival, name, roots)


def fetch_for_run(url: str, roots: Roots, run_dir: Path, started_with: str) -> Path:
    """The cache below a prefix, published below the cache root if it was not.

    started_with : the fingerprint that the run is held to, "" in a new run
    Raises StudentError, before anything is fetched, where the prefix holds another one.
    """
    from student.training.run_cache import require_same_cache
    from teacher_cache.sharing.object_store import remote_contents
    from teacher_cache.sharing.transport import redacted

    fingerprint = remote_contents(url).fingerprint
    if started_with:
        require_same_cache(run_dir, started_with, fingerprint, source=redacted(url))
    report = pull_teacher_cache(url, "", roots)
    for line in report.lines if report.result["is_new"] else []:
        say(str(line))
    return Path(report.result["path"])


def _sound(reference: str, roots: Roots) -> Path:
    """The folder of a cache without a fault: what is damaged here must not be handed on."""
    report = verify_teacher_cache(reference, roots)
    if report.result["faults"]:
        raise PipelineError(f"{report.result['path']}: {report.result['faults'][0]}; it cannot be shared")
    return Path(report.result["path"])


def _require_name(name: str) -> None:
    if name:
        store.require_name(name)


def _arrived(arrival: ReceivedCache, name: str, roots: Roots) -> Report:
    if name:
        store.write_name(roots.cache, name, arrival.fingerprint)
    done = "verified and published" if arrival.is_new else "was there already, nothing to do"
    return Report({**asdict(arrival), "path": str(arrival.path)}, [f"{arrival.path}: {done}"])


def _bytes_of(path: Path) -> int:
    return sum((path / name).stat().st_size for name in names_of(path))


@contextmanager
def _bar(title: str, total_bytes: int) -> Iterator[Count]:
    """Bytes on a bar of megabytes."""
    with progress(title, total=total_bytes / MEGABYTE, unit="MB") as advance:
        yield lambda number: advance(number / MEGABYTE)
