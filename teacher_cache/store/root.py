"""The cache root: where builds and caches lie, what they are called, and how they are removed."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from teacher_cache.common.files import write_whole
from teacher_cache.common.lock import GUARD, BuildLock, read_owner
from teacher_cache.common.names import NAME_RULE, is_name
from teacher_cache.errors import CacheError
from teacher_cache.store.manifest import FINGERPRINT_CHARACTERS, MANIFEST, Manifest, read_manifest

BUILDING = ".building"
NAMES = "names"
REMOVED_SUFFIX = ".removed"


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
        raise CacheError(f"{name!r} cannot name a cache; a name is {NAME_RULE}")


def write_name(root: Path, name: str, fingerprint: str) -> None:
    """Let `name` (a config's) mean this cache from now on; CacheError where it is none."""
    require_name(name)
    write_whole(root / NAMES / name, fingerprint + "\n")


def resolve(root: Path, reference: str) -> Path:
    """The folder of a published cache, by path, by name, by fingerprint or by a unique beginning of one.

    Raises CacheError that lists what there is.
    """
    if (Path(reference) / MANIFEST).is_file():
        return Path(reference)
    name = root / NAMES / reference
    named = name.read_text(encoding="utf-8").strip() if _is_plain(reference) and name.is_file() else ""
    found = [path for path in _published(root) if path.name.startswith(named or reference)]
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
    """Every published cache below `root`, by fingerprint; damaged ones too."""
    names: dict[str, list[str]] = {}
    for path in sorted((root / NAMES).glob("*")):
        if not path.name.endswith(".partial"):
            names.setdefault(path.read_text(encoding="utf-8").strip(), []).append(path.name)
    entries = []
    for path in _published(root):
        manifest, fault = None, ""
        try:
            manifest = read_manifest(path)
        except CacheError as error:
            fault = str(error)
        entries.append(CacheEntry(path, tuple(names.get(path.name, ())), _num_bytes(path), manifest, fault))
    return entries


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
    for name in (root / NAMES).glob("*"):
        if name.read_text(encoding="utf-8").strip() == path.name:
            name.unlink()
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
    return reference == Path(reference).name


def _published(root: Path) -> list[Path]:
    pattern = re.compile(f"[0-9a-f]{{{FINGERPRINT_CHARACTERS}}}")
    return sorted(path for path in root.glob("*") if path.is_dir() and pattern.fullmatch(path.name))


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
