"""The cache root: where builds and caches lie, what they are called, and how they are removed."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teacher_cache.common.files import FILES, write_whole
from teacher_cache.common.lock import GUARD, BuildLock, read_owner
from teacher_cache.common.small_files import is_there
from teacher_cache.errors import CacheError
from teacher_cache.settings import NAME_RULE, is_name, shown_value
from teacher_cache.store.manifest import MANIFEST, Manifest, is_fingerprint, read_manifest

BUILDING = ".building"
NAMES = "names"
REMOVED_SUFFIX = ".removed"
MAX_NAME_BYTES = 1024


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A published cache. manifest is None where it cannot be read, and `fault` says why."""

    path: Path
    names: tuple[str, ...]
    num_bytes: int
    manifest: Manifest | None
    fault: str = ""

    @property
    def fingerprint(self) -> str:
        """The folder's name."""
        return self.path.name


def building_path(root: Path, fingerprint: str) -> Path:
    """Where a build works until it is published."""
    return root / BUILDING / fingerprint


def lock_path(root: Path, fingerprint: str) -> Path:
    """The lock that its builder holds, for `BuildLock`; taken before `building_path` is touched."""
    return root / BUILDING / f"{fingerprint}.lock"


def require_name(name: str) -> None:
    """CacheError where this cannot name a cache: to be asked before any work that the name is for."""
    if not is_name(name):
        raise CacheError(f"{shown_value(name)} cannot name a cache; a name is {NAME_RULE}")


def write_name(root: Path, name: str, fingerprint: str) -> None:
    """Let `name` (a config's) mean this cache from now on; CacheError where it is none."""
    require_name(name)
    write_whole(root / NAMES / name, fingerprint + "\n")


def resolve(root: Path, reference: str) -> Path:
    """The folder of a published cache, by path, by name, by fingerprint or by a unique beginning of one.

    Raises CacheError that lists what there is.
    """
    if os.path.isfile(Path(reference) / MANIFEST):  # False for what can be no name, too
        return Path(reference)
    name = root / NAMES / reference
    named = _meaning(name) if _is_plain(reference) and is_there(name) else ""
    wanted = named or reference
    found = [path for path in _published(root) if wanted and path.name.startswith(wanted)]  # "" begins all
    if len(found) == 1:
        return found[0]
    if named:
        raise CacheError(
            f"{reference} means cache {named}, which is not below {root}; run `bert2ctc cache build`"
        )
    if found:
        raise CacheError(f"{reference!r} begins {', '.join(path.name for path in found)}; give more of it")
    held = ", ".join(path.name for path in _published(root)) or "none"
    raise CacheError(f"no cache {reference!r} below {root} ({held}); make one with `bert2ctc cache build`")


def list_caches(root: Path) -> list[CacheEntry]:
    """Every published cache below `root`, by fingerprint; damaged ones too.

    A name that cannot be read is no name of a cache: `damaged_names` tells of those.
    """
    names, entries = names_by_meaning(root), []
    for path in _published(root):
        manifest, fault = None, ""
        try:
            manifest = read_manifest(path)
        except CacheError as error:
            fault = str(error)
        entries.append(CacheEntry(path, tuple(names.get(path.name, ())), _num_bytes(path), manifest, fault))
    return entries


def names_by_meaning(root: Path) -> dict[str, list[str]]:
    """Fingerprint -> the names that stand for it, sorted; names that cannot be read are left out."""
    names: dict[str, list[str]] = {}
    for path in _names(root):
        with suppress(CacheError):
            names.setdefault(_meaning(path), []).append(path.name)
    return names


def damaged_names(root: Path) -> list[str]:
    """One line for each file among the names that names no cache, whatever it is."""
    faults = []
    for path in _names(root):
        try:
            _meaning(path)
        except CacheError as error:
            faults.append(str(error))
    return faults


def describe(path: Path) -> dict[str, Any]:
    """What `cache info` shows of a published cache: one flat JSON object, label -> value."""
    manifest = read_manifest(path)
    recipe, layout, teacher = manifest.recipe, manifest.layout, manifest.teacher
    num_bytes = _num_bytes(path)
    return {
        "fingerprint": manifest.fingerprint,
        "path": str(path),
        "teacher": teacher.name,
        "teacher_model": teacher.model,
        "teacher_revision": teacher.revision,
        "teacher_licence": teacher.licence,
        "masking": recipe.masking,
        "context": recipe.context,
        "context_words": recipe.context_words,
        "dtype": recipe.dtype,
        "normaliser": recipe.normaliser,
        "passages": layout.num_passages,
        "rows": layout.num_rows,
        "top_k": layout.top_k,
        "temperatures": list(layout.temperatures),
        "vocabulary": layout.vocab_size,
        "shards": layout.num_shards,
        "bytes": num_bytes,
        "bytes_per_row": round(num_bytes / layout.num_rows, 1),
        "recipe": recipe.digest(),
        "quality": manifest.quality,
        "build": manifest.build,
    }


def remove_cache(root: Path, reference: str) -> Path:
    """Delete one published cache, and the names that mean it; returns where it was.

    reference : its fingerprint or a unique beginning of it; a name or a path is not enough to delete by
    """
    found = [path for path in _published(root) if reference and path.name.startswith(reference)]
    if len(found) != 1:
        held = ", ".join(path.name for path in (found or _published(root))) or "none"
        raise CacheError(f"{reference!r} is not the fingerprint of one cache below {root} ({held})")
    path = found[0]
    for name in names_by_meaning(root).get(path.name, []):
        (root / NAMES / name).unlink()
    # Renamed first: a deletion that is killed leaves a leftover, never half a cache.
    removed = root / BUILDING / f"{path.name}.{os.getpid()}{REMOVED_SUFFIX}"
    removed.parent.mkdir(exist_ok=True)
    os.rename(path, removed)
    shutil.rmtree(removed)
    return path


def collect_garbage(root: Path, delete: bool) -> list[Path]:
    """Leftovers of dead builds, deleted only where `delete`; a living or a foreign build is no leftover."""
    leftovers = [
        path
        for path in sorted((root / BUILDING).glob("*"))
        if path.name != GUARD and _is_abandoned(_lock_of(root, path))
    ]
    for path in leftovers if delete else []:
        with BuildLock(_lock_of(root, path)):  # a dead lock itself goes with this one
            if path.is_dir():
                shutil.rmtree(path)
            elif path.suffix != ".lock":
                path.unlink()
    return leftovers


def _lock_of(root: Path, leftover: Path) -> Path:
    return lock_path(root, leftover.name.split(".")[0])


def _is_abandoned(lock: Path) -> bool:
    try:
        owner = read_owner(lock)
    except CacheError:
        return False  # names nobody: a person decides
    return owner is None or owner.is_dead


def _is_plain(reference: str) -> bool:
    return bool(reference) and reference == Path(reference).name and "\0" not in reference


def _names(root: Path) -> list[Path]:
    return sorted(path for path in (root / NAMES).glob("*") if not path.name.endswith(".partial"))


def _meaning(name: Path) -> str:
    """The fingerprint that a name stands for; CacheError where its file holds none."""
    advice = "no name of a cache; delete it, or name the cache anew with `bert2ctc cache build`"
    text = FILES.text(name, advice, limit=MAX_NAME_BYTES).strip()
    if not is_fingerprint(text):
        raise CacheError(f"{name}: holds {shown_value(text)}; {advice}")
    return text


def _published(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("*") if path.is_dir() and is_fingerprint(path.name))


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
