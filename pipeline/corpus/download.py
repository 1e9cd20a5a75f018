"""LibriSpeech below the data root: fetched, verified, extracted aside, renamed when whole."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.console import say
from pipeline.corpus.http import LOCAL, Patience, fetch, has_checksum
from pipeline.corpus.openslr import OPENSLR_URL, TABLE, Archive
from pipeline.corpus.read import AUDIO_SUFFIXES
from pipeline.errors import PipelineError
from teacher_cache.common.files import flush_folder, publish_folder
from teacher_cache.common.progress import progress
from teacher_cache.common.sizes import MEGABYTE, megabytes

CORPUS_FOLDER = "LibriSpeech"  # the archives' own top folder
TEXT_FOLDER = "text"
_SPARE_BYTES = 100 * MEGABYTE  # a file system that is filled to the last byte serves nobody


@dataclass(frozen=True, slots=True)
class DownloadPlan:
    """names : still to fetch     present : whole already     bytes : see the names, approximate for disk."""

    names: tuple[str, ...]
    present: tuple[str, ...]
    transfer_bytes: int
    needed_bytes: int
    free_bytes: int

    def describe(self) -> str:
        """One line: what is there, what comes, and what the disk must hold at once."""
        there = f"already whole: {', '.join(self.present)}; " if self.present else ""
        if not self.names:
            return f"{there}nothing to fetch"
        return (
            f"{there}to fetch: {', '.join(self.names)}: {_size(self.transfer_bytes)}; needs "
            f"{_size(self.needed_bytes)} of disk while it extracts, {_size(self.free_bytes)} free"
        )


def plan_download(
    names: Sequence[str], data_root: Path, table: Mapping[str, Archive] = TABLE
) -> DownloadPlan:
    """What fetching the named subsets takes. Writes nothing.

    Raises PipelineError for an unknown name, and for a subset's folder that is not whole.
    """
    unknown = [name for name in names if name not in table]
    if unknown:
        raise PipelineError(f"no subset {unknown[0]!r}; known: {', '.join(table)}")
    wanted = tuple(dict.fromkeys(names))
    present = tuple(name for name in wanted if _is_whole(name, data_root, table[name]))
    missing = [name for name in wanted if name not in present]
    here = {name: _bytes_of(_partial(data_root, table[name])) for name in missing}
    transfer = sum(max(0, table[name].num_bytes - here[name]) for name in missing)
    # Archives go one by one and are deleted once extracted: all results, and the largest archive beside them.
    kept = sum(table[name].unpacked_bytes or table[name].num_bytes for name in missing)
    largest = max((table[name].num_bytes for name in missing if table[name].is_unpacked), default=0)
    needed = kept + largest - sum(here.values()) + (_SPARE_BYTES if missing else 0)
    return DownloadPlan(tuple(missing), present, transfer, max(0, needed), _free_bytes(data_root))


def download(
    names: Sequence[str],
    data_root: Path,
    base_url: str = "",
    table: Mapping[str, Archive] = TABLE,
    patience: Patience | None = None,
) -> DownloadPlan:
    """Fetch, verify and extract the named subsets; the plan that was carried out.

    base_url : a mirror that holds all files in one folder, by URL or by path; "" for openslr.org
    Subsets land in `<data root>/LibriSpeech/<name>`, plain files in `<data root>/text`. What is whole
    already is left alone, and an interrupted download goes on where it stopped. Raises PipelineError
    where it does not fit, cannot be fetched, or is not what its checksum says.
    """
    plan = plan_download(names, data_root, table)
    addresses = {name: _address(base_url, table[name]) for name in plan.names}
    say(plan.describe())
    if plan.names and plan.needed_bytes > plan.free_bytes:
        raise PipelineError(
            f"{data_root}: {_size(plan.free_bytes)} free, {_size(plan.needed_bytes)} needed for "
            f"{', '.join(plan.names)}; free some, choose fewer subsets, or set BERT2CTC_DATA to another disk"
        )
    for name in plan.names:
        archive = table[name]
        with _claimed(_partial(data_root, archive)) as partial:
            if _is_whole(name, data_root, archive):  # another process was quicker
                continue
            _fetch_verified(addresses[name], partial, archive, patience or Patience())
            _put_in_place(name, partial, data_root, archive)
        say(f"{name}: whole in {_target(name, data_root, archive)}")
    return plan


def _address(base_url: str, archive: Archive) -> str:
    """The URL of an archive's file; PipelineError for a mirror of a kind that is not read."""
    if not base_url:
        return f"{OPENSLR_URL}{archive.folder}/{archive.file}"
    if "://" not in base_url:
        return (Path(base_url).absolute() / archive.file).as_uri()
    if not base_url.startswith(("http://", "https://", LOCAL)):
        raise PipelineError(f"--base-url {base_url}: give a folder, or http://, https:// or file:///FOLDER")
    return f"{base_url.rstrip('/')}/{archive.file}"


def _fetch_verified(url: str, partial: BinaryIO, archive: Archive, patience: Patience) -> None:
    fetch(url, partial, archive.num_bytes, patience)
    if not has_checksum(partial, archive.checksum):
        size = partial.tell()
        Path(partial.name).unlink()
        raise PipelineError(
            f"{url}: {size:,} bytes came, and their checksum is not {archive.checksum}; they were deleted; "
            "run the same command again, or choose another mirror with --base-url"
        )


def _put_in_place(name: str, partial: BinaryIO, data_root: Path, archive: Archive) -> None:
    target = _target(name, data_root, archive)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not archive.is_unpacked:
        partial.flush()
        os.fsync(partial.fileno())
        os.replace(partial.name, target)
        flush_folder(target.parent)
        return
    extracting = data_root / f".extracting-{name}"
    shutil.rmtree(extracting, ignore_errors=True)  # a killed process left it; the archive's lock is ours
    try:
        _extract(partial, extracting, archive)
        found = _count_audio(extracting / CORPUS_FOLDER / name)
        if found != archive.utterances:
            raise PipelineError(
                f"{archive.file}: {found} utterances in {CORPUS_FOLDER}/{name}, {archive.utterances} expected"
            )
        for extra in (extracting / CORPUS_FOLDER).iterdir():
            if extra.is_file() and not (target.parent / extra.name).exists():
                os.replace(extra, target.parent / extra.name)  # README, LICENSE, SPEAKERS, ...
        publish_folder(extracting / CORPUS_FOLDER / name, target)
    finally:
        shutil.rmtree(extracting, ignore_errors=True)
    Path(partial.name).unlink()


def _extract(partial: BinaryIO, folder: Path, archive: Archive) -> None:
    """Unpack folders and plain files; a link, a device or a path that leaves `folder` is refused."""
    if not hasattr(tarfile, "data_filter"):
        raise PipelineError(f"Python {sys.version.split()[0]} cannot extract safely; use 3.11.4 or newer")
    size = partial.seek(0, 2)
    partial.seek(0)
    read = 0
    try:
        with (
            tarfile.open(fileobj=partial, mode="r:gz") as tar,
            progress(f"extracting {archive.file}", total=size / MEGABYTE, unit="MB") as advance,
        ):
            for member in tar:
                if not (member.isfile() or member.isdir()):
                    raise PipelineError(f"{archive.file}: refused, {member.name!r} is no file or folder")
                tar.extract(member, folder, filter="data")
                advance((partial.tell() - read) / MEGABYTE)
                read = partial.tell()
    except tarfile.FilterError as error:
        raise PipelineError(f"{archive.file}: refused, {error}") from None
    except (tarfile.TarError, EOFError) as error:
        raise PipelineError(f"{archive.file}: not a whole archive ({error})") from None


def _is_whole(name: str, data_root: Path, archive: Archive) -> bool:
    """True where the whole result is there; a folder with too few utterances is never taken for whole."""
    target = _target(name, data_root, archive)
    if not target.exists():
        return False
    if archive.is_unpacked and (found := _count_audio(target)) != archive.utterances:
        raise PipelineError(
            f"{target}: holds {found:,} of {archive.utterances:,} utterances; this command did not make it, "
            "so move it away to fetch it whole"
        )
    return True


def _target(name: str, data_root: Path, archive: Archive) -> Path:
    return data_root / (f"{CORPUS_FOLDER}/{name}" if archive.is_unpacked else f"{TEXT_FOLDER}/{archive.file}")


def _partial(data_root: Path, archive: Archive) -> Path:
    return data_root / f".downloading-{archive.file}"


@contextmanager
def _claimed(partial: Path) -> Iterator[BinaryIO]:
    """The partial file, open for reading and appending, for this process alone."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("a+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(stream.fileno()).st_nlink == 0:
                raise BlockingIOError  # its owner ended, and deleted it, after we opened it
        except BlockingIOError:
            raise PipelineError(f"{partial}: another process is at it; try again when it ended") from None
        try:
            yield stream
        finally:
            stream.flush()
            if partial.exists() and _bytes_of(partial) == 0:
                partial.unlink()


def _count_audio(folder: Path) -> int:
    return sum(
        name.rpartition(".")[2].lower() in AUDIO_SUFFIXES for _, _, names in os.walk(folder) for name in names
    )


def _bytes_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _free_bytes(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else megabytes(num_bytes)
