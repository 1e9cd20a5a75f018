"""Which teacher cache a run began with; going on with another is refused, and the difference named."""

from __future__ import annotations

from pathlib import Path

from student.errors import StudentError
from student.files import FILES, write_json
from student.training.run_folder import ANOTHER_RUN
from teacher_cache.common.small_files import is_there
from teacher_cache.store import Manifest
from teacher_cache.store.provenance import CacheOrigin, origin_differences, origin_of

CACHE_NAME = "cache.json"


def note_cache(run_dir: Path, manifest: Manifest) -> None:
    """Write down where the labels of a run that begins come from."""
    write_json(run_dir / CACHE_NAME, origin_of(manifest).to_json())


def require_same_cache(
    run_dir: Path, began: str, now: str, manifest: Manifest | None = None, source: str = ""
) -> None:
    """StudentError where a run goes on with another cache than it began with.

    began, now : fingerprints, "" for none     manifest : of the cache now, so that what differs is named
    where the run noted its own     source : where the cache now comes from, for the message
    """
    if began == now:
        return
    noted = _noted(run_dir) if manifest is not None else None
    phrases: list[str] = []
    if manifest is not None and noted is not None and noted.fingerprint == began:
        phrases = origin_differences(noted, origin_of(manifest))
    other = f"{now or 'none'} of {source}" if source else now or "none"
    how = f" ({'; '.join(phrases)})" if phrases else ""
    raise StudentError(
        f"{run_dir}: began with cache {began or 'none'}, not {other}{how}; name that one with --cache, or "
        f"start a new run with {ANOTHER_RUN}"
    )


def _noted(run_dir: Path) -> CacheOrigin | None:
    """What `note_cache` wrote, None in an older run."""
    path = run_dir / CACHE_NAME
    if not is_there(path):
        return None
    return CacheOrigin.from_json(FILES.json(path, "delete it to go on with the run's cache"), str(path))
