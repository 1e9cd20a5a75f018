"""Which teacher cache a run began with; going on with another is refused, and the difference named."""

from __future__ import annotations

import json
from pathlib import Path

from student.errors import StudentError
from teacher_cache.common.files import write_json
from teacher_cache.store import Manifest
from teacher_cache.store.provenance import CacheOrigin, origin_differences, origin_of

CACHE_NAME = "cache.json"


def hold_to_cache(run_dir: Path, manifest: Manifest, *, begins: bool) -> None:
    """Write down the cache of a run that begins; StudentError where a run goes on with another."""
    if begins:
        write_json(run_dir / CACHE_NAME, origin_of(manifest).to_json())
    else:
        refuse_another_cache(run_dir, manifest)


def refuse_another_cache(run_dir: Path, manifest: Manifest) -> None:
    """StudentError that names what differs between the run's cache and this one; a run may lack a note."""
    began = _noted(run_dir)
    if began is None or began.fingerprint == manifest.fingerprint:
        return
    differences = "; ".join(origin_differences(began, origin_of(manifest)))
    raise StudentError(
        f"{run_dir}: began with cache {began.fingerprint}, not {manifest.fingerprint} ({differences}); "
        "name that one with --cache, or start a new run with RUN="
    )


def _noted(run_dir: Path) -> CacheOrigin | None:
    path = run_dir / CACHE_NAME
    if not path.is_file():
        return None
    try:
        return CacheOrigin.from_json(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError, AttributeError) as error:
        raise StudentError(f"{path}: unreadable ({error}); delete it to go on with the run's cache") from None
