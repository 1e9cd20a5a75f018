"""What a cache says of itself: recipe, fingerprint, receipts and manifest, JSON beside the arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from teacher_cache.common.differences import differences, phrases, shown
from teacher_cache.common.files import canonical_json, sha256_of, write_whole
from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.passages import DIGEST_BYTES
from teacher_cache.store.layout import Layout

FORMAT_VERSION = 1
LABEL_VERSION = 1  # raise it whenever this code changes a stored value beyond the stated error
FINGERPRINT_CHARACTERS = 32
MANIFEST = "manifest.json"
RECEIPTS = "receipts"

SPECIAL_TOKEN_POLICY = (
    "left, text and right are one text within the tokenizer's own frame, every word behind a space; "
    "special and unused pieces are never ranked, their mass is in the tail"
)
TRUNCATION_POLICY = "a passage above the teacher's limit is refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherIdentity:
    """Which teacher labelled, for people (name, origin, licence) and for the fingerprint (files_sha256).

    normaliser : of the text it was trained on, where known     max_tokens : per passage, specials included
    """

    name: str
    model: str
    revision: str
    licence: str
    files_sha256: dict[str, str]
    vocab_size: int
    max_tokens: int
    normaliser: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Proof that one shard was written whole.

    sha256 : of the shard's rows, decoded: every row array in the order of ROW_ARRAYS, little-endian, C order
    mass_at : mean probability mass in the first k columns, keyed by k
    """

    shard: int
    rows: int
    sha256: str
    mass_at: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    device: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that decides a label; two caches of one recipe may exchange rows."""

    format_version: int
    label_version: int
    teacher_files_sha256: dict[str, str]
    normaliser: dict[str, Any]
    masking: str
    context: str
    context_words: int
    top_k: int
    temperatures: tuple[float, ...]
    dtype: str
    special_tokens: str = SPECIAL_TOKEN_POLICY
    truncation: str = TRUNCATION_POLICY

    def digest(self) -> str:
        """sha256 of the canonical JSON, hexadecimal."""
        return sha256_of(canonical_json(asdict(self)))


def recipe_of(teacher: TeacherIdentity, config: CacheConfig, normaliser: Mapping[str, Any]) -> Recipe:
    """The recipe that a teacher, a [cache] table and a normaliser make."""
    return Recipe(
        format_version=FORMAT_VERSION,
        label_version=LABEL_VERSION,
        teacher_files_sha256=dict(teacher.files_sha256),
        normaliser=dict(normaliser),
        masking=config.masking,
        context=config.context,
        context_words=config.context_words,
        top_k=config.top_k,
        temperatures=tuple(float(temperature) for temperature in config.temperatures),
        dtype=config.dtype,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """`manifest.json`, written last: what a cache is, where it came from, and its receipts.

    contents_sha256 : of the sorted passage digests     tables_sha256 : array name -> sha256 of its bytes
    quality, build : figures for people; nothing is computed from them
    """

    fingerprint: str
    recipe: Recipe
    teacher: TeacherIdentity
    layout: Layout
    contents_sha256: str
    tables_sha256: dict[str, str] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    build: dict[str, Any] = field(default_factory=dict)
    receipts: tuple[Receipt, ...] = ()
    format_version: int = FORMAT_VERSION

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the sha256 of its own canonical JSON; `from_json` gives the manifest back."""
        entry = asdict(self)
        return {**entry, "sha256": sha256_of(canonical_json(entry))}

    @staticmethod
    def from_json(entry: Mapping[str, Any], source: str = "manifest.json") -> Manifest:
        """The manifest of a JSON object; CacheError for another format or an object that was changed."""
        entry = dict(entry)
        version = entry.get("format_version")
        if version != FORMAT_VERSION:
            raise CacheError(
                f"{source}: format {version}, this code reads {FORMAT_VERSION}; rebuild with "
                "`bert2ctc cache build`"
            )
        if entry.pop("sha256", "") != sha256_of(canonical_json(entry)):
            raise CacheError(
                f"{source}: changed since it was written; fetch or build the cache again with "
                "`bert2ctc cache build`"
            )
        try:
            recipe, layout = dict(entry["recipe"]), dict(entry["layout"])
            recipe["temperatures"] = tuple(recipe["temperatures"])
            layout["temperatures"] = tuple(layout["temperatures"])
            parts: dict[str, Any] = {
                **entry,
                "recipe": Recipe(**recipe),
                "teacher": TeacherIdentity(**entry["teacher"]),
                "layout": Layout(**layout),
                "receipts": tuple(Receipt(**receipt) for receipt in entry["receipts"]),
            }
            return Manifest(**parts)
        except (KeyError, TypeError, ValueError) as error:
            raise CacheError(
                f"{source}: not a cache manifest ({error!r}); fetch or build the cache again with "
                "`bert2ctc cache build`"
            ) from None

    def differences(self, config: CacheConfig, teacher_name: str, normaliser: Mapping[str, Any]) -> list[str]:
        """One phrase per setting in which this cache differs from what a run asks for; [] where none does.

        teacher_name : "" leaves the teacher out of the comparison
        """
        wanted = recipe_of(self.teacher, config, normaliser)
        parts = [
            {name: shown(value) for name, value in asdict(recipe).items()} for recipe in (self.recipe, wanted)
        ]
        found = phrases(differences(*parts), "{key} {old} in the cache, {new} in the config")
        if teacher_name not in ("", self.teacher.name, self.teacher.model):
            found.insert(0, f"teacher {self.teacher.name!r} in the cache, {teacher_name!r} in the config")
        return found


def contents_sha256(passage_digests: np.ndarray) -> str:
    """Hexadecimal sha256 of sorted passage digests, uint8 (M, 16); CacheError where they do not ascend."""
    digests = np.ascontiguousarray(passage_digests)
    if digests.dtype != np.uint8 or digests.ndim != 2 or digests.shape[1] != DIGEST_BYTES:
        raise CacheError(
            f"passage digests {digests.dtype} {digests.shape} are not uint8 (M, {DIGEST_BYTES}); "
            "rerun `bert2ctc cache build`"
        )
    keys = digests.view(">u8")
    first, second = keys[:-1], keys[1:]
    ascending = (first[:, 0] < second[:, 0]) | ((first[:, 0] == second[:, 0]) & (first[:, 1] < second[:, 1]))
    if not ascending.all():
        index = int(np.flatnonzero(~ascending)[0])
        raise CacheError(
            f"passage digests do not ascend at {index + 1}; fetch or build the cache again with "
            "`bert2ctc cache build`"
        )
    return hashlib.sha256(digests.tobytes()).hexdigest()


def fingerprint(recipe: Recipe, passage_digests: np.ndarray) -> str:
    """32 hexadecimal characters that name a cache: its recipe and its sorted passage digests (M, 16)."""
    parts = {"recipe": asdict(recipe), "contents": contents_sha256(passage_digests)}
    return sha256_of(canonical_json(parts))[:FINGERPRINT_CHARACTERS]


def write_receipt(folder: Path, receipt: Receipt) -> None:
    """Write `receipts/<shard>.json`."""
    write_whole(folder / RECEIPTS / f"{receipt.shard}.json", json.dumps(asdict(receipt)) + "\n")


def remove_receipt(folder: Path, shard: int) -> None:
    """Take a shard's receipt away, before its rows are written again."""
    (folder / RECEIPTS / f"{shard}.json").unlink(missing_ok=True)


def read_receipts(folder: Path) -> dict[int, Receipt]:
    """Shard -> receipt of a build; CacheError for a damaged one."""
    receipts = {}
    for path in (folder / RECEIPTS).glob("*.json"):
        try:
            receipt = Receipt(**_read(path))
        except TypeError as error:
            raise CacheError(
                f"{path}: not a receipt ({error}); delete it and rerun `bert2ctc cache build`"
            ) from None
        receipts[receipt.shard] = receipt
    return dict(sorted(receipts.items()))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a published cache; CacheError where there is none, another format or damage."""
    path = folder / MANIFEST
    if not path.is_file():
        raise CacheError(
            f"{folder}: no {MANIFEST}, so no finished cache; make one with `bert2ctc cache build`"
        )
    return Manifest.from_json(_read(path), source=str(path))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, the last file of a cache."""
    write_whole(folder / MANIFEST, json.dumps(manifest.to_json(), indent=1) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CacheError(
            f"{path}: unreadable ({error}); fetch or build the cache again with `bert2ctc cache build`"
        ) from None
    if not isinstance(entry, dict):
        raise CacheError(
            f"{path}: not a JSON object; fetch or build the cache again with `bert2ctc cache build`"
        )
    return entry
