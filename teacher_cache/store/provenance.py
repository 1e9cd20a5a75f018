"""Where a cache's labels come from, short enough to lie beside a run; and what two origins differ in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from teacher_cache.common.files import canonical_json
from teacher_cache.errors import CacheError
from teacher_cache.store.manifest import Manifest

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
        try:
            return CacheOrigin(**{**entry, "recipe": dict(entry["recipe"])})
        except (KeyError, TypeError, ValueError) as error:
            raise CacheError(
                f"{source}: names no cache ({error!r}); delete it to go on with the run's own cache"
            ) from None


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
    phrases = []
    files = "teacher_files_sha256"
    teacher = _file_differences(began.recipe.get(files, {}), now.recipe.get(files, {}))
    if teacher:
        phrases.append(f"teacher {began.teacher!r}, now {now.teacher!r} ({teacher})")
    if began.contents_sha256 != now.contents_sha256:
        shown = [digest[:_SHOWN_DIGEST] for digest in (began.contents_sha256, now.contents_sha256)]
        phrases.append(f"text {began.passages:,} passages ({shown[0]}), now {now.passages:,} ({shown[1]})")
    for name in sorted((began.recipe.keys() | now.recipe.keys()) - {files}):
        values = [_shown(origin.recipe.get(name)) for origin in (began, now)]
        if values[0] != values[1]:
            phrases.append(f"{_WORDS.get(name, name.replace('_', ' '))} {values[0]}, now {values[1]}")
    return phrases


def _file_differences(began: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Names of the files that are not the same, "" where all are."""
    names = sorted(name for name in began.keys() | now.keys() if began.get(name) != now.get(name))
    more = f" and {len(names) - _NAMED_FILES} more" if len(names) > _NAMED_FILES else ""
    return f"other {', '.join(names[:_NAMED_FILES])}{more}" if names else ""


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else canonical_json(value)
