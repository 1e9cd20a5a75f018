"""Where a cache's labels come from, short enough to lie beside a run; and what two origins differ in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from teacher_cache.common.differences import differences, listed, phrases, shown
from teacher_cache.common.files import FILES
from teacher_cache.common.typed import typed
from teacher_cache.store.manifest import Manifest
from teacher_cache.store.piece_policy import shown_policy

_FILES = "teacher_files_sha256"
_NAMED_FILES = 3
_SHOWN_DIGEST = 8
# The parts of a recipe in the words of the [cache] table; what is not named here keeps its own name.
_WORDS = {"top_k": "K", "special_tokens": "special-token policy", "truncation": "truncation policy"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOrigin:
    """A manifest without its receipts and figures.

    recipe : as in the manifest, a JSON object     contents_sha256 : of the passages' digests
    """

    fingerprint: str
    teacher: str
    passages: int
    contents_sha256: str
    recipe: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `from_json` gives the origin back."""
        return asdict(self)

    @staticmethod
    def from_json(entry: Mapping[str, Any], source: str) -> CacheOrigin:
        """The origin of a JSON object; CacheError that names `source` where it is none."""
        with FILES.faults_told(source, "names no cache; delete it to go on with the run's own cache"):
            return typed(CacheOrigin, entry)


def origin_of(manifest: Manifest) -> CacheOrigin:
    """The origin of a published cache."""
    return CacheOrigin(
        fingerprint=manifest.fingerprint,
        teacher=manifest.teacher.name,
        passages=manifest.layout.num_passages,
        contents_sha256=manifest.contents_sha256,
        recipe=asdict(manifest.recipe),
    )


def origin_differences(began: CacheOrigin, now: CacheOrigin) -> list[str]:
    """What another cache has otherwise, one phrase each: teacher, text, then the settings; [] where nothing.

    Two origins without a difference have one fingerprint.
    """
    found = []
    files = list(differences(*(origin.recipe.get(_FILES, {}) for origin in (began, now))))
    if files:
        names = listed(files, _NAMED_FILES, ", ")
        found.append(f"teacher {began.teacher!r}, now {now.teacher!r} (other {names})")
    if began.contents_sha256 != now.contents_sha256:
        digests = [digest[:_SHOWN_DIGEST] for digest in (began.contents_sha256, now.contents_sha256)]
        found.append(f"text {began.passages:,} passages ({digests[0]}), now {now.passages:,} ({digests[1]})")
    return found + phrases(differences(*map(_settings, (began, now))), "{key} {old}, now {new}")


def _settings(origin: CacheOrigin) -> dict[str, str]:
    """The recipe without the teacher's files, each part reported as a whole and in its own words."""
    return {
        _WORDS.get(name, name.replace("_", " ")): shown_policy(shown(value))
        for name, value in origin.recipe.items()
        if name != _FILES
    }
