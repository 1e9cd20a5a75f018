"""What a cache says of itself: recipe, fingerprint, receipts and manifest, JSON beside the arrays."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from teacher_cache.common.differences import differences, phrases, shown
from teacher_cache.common.files import FILES, canonical_json, sha256_of, write_whole
from teacher_cache.common.small_files import is_there
from teacher_cache.common.typed import typed
from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.passages import DIGEST_BYTES
from teacher_cache.settings import shown_value
from teacher_cache.store.layout import Layout
from teacher_cache.store.piece_policy import SPECIAL_TOKEN_POLICY, shown_policy, special_token_policy

FORMAT_VERSION = 1
LABEL_VERSION = 1  # raise it whenever this code changes a stored value beyond the stated error
FINGERPRINT_CHARACTERS = 32
MANIFEST = "manifest.json"
RECEIPTS = "receipts"
_AGAIN = "fetch or build the cache again with `bert2ctc cache build`"

TRUNCATION_POLICY = "a passage above the teacher's limit is refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherIdentity:
    """Which teacher labelled, for people (name, origin, licence) and for the fingerprint (files_sha256).

    normaliser : of the text it was trained on, where known     max_tokens : per passage, specials included
    requested_revision : of the hub, as a config named it     training : recipe of one that was trained here
    request_sha256 : of what the config that built the cache said of its teacher
    The last three are "" and {} in caches of version 0.1.
    """

    name: str
    model: str
    revision: str
    licence: str
    files_sha256: dict[str, str]
    vocab_size: int
    max_tokens: int
    normaliser: dict[str, Any] = field(default_factory=dict)
    requested_revision: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    request_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Proof that one shard was written whole.

    sha256 : of the shard's rows, decoded: every row array in the order of ROW_ARRAYS, little-endian, C order
    columns_sha256 : array name -> sha256 of each of its column chunks, so that what a view does not read
        need not be read to check it; {} in caches of version 0.1
    mass_at : mean probability mass in the first k columns, keyed by k
    """

    shard: int
    rows: int
    sha256: str
    columns_sha256: dict[str, list[str]] = field(default_factory=dict)
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
        special_tokens=special_token_policy(config),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """`manifest.json`, written last: what a cache is, where it came from, and its receipts.

    contents_sha256 : of the sorted passage digests     tables_sha256 : array name -> sha256 of its bytes
    metadata_sha256 : path of every zarr.json -> sha256 of its bytes; {} in caches of version 0.1
    quality, build : figures for people; nothing is computed from them
    """

    fingerprint: str
    recipe: Recipe
    teacher: TeacherIdentity
    layout: Layout
    contents_sha256: str
    tables_sha256: dict[str, str] = field(default_factory=dict)
    metadata_sha256: dict[str, str] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)
    build: dict[str, Any] = field(default_factory=dict)
    receipts: tuple[Receipt, ...] = ()
    format_version: int = FORMAT_VERSION

    def digest(self) -> str:
        """sha256 of the canonical JSON, hexadecimal: of all that the manifest says and vouches for."""
        return sha256_of(canonical_json(asdict(self)))

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the sha256 of its own canonical JSON; `from_json` gives the manifest back."""
        entry = asdict(self)
        return {**entry, "sha256": sha256_of(canonical_json(entry))}

    @staticmethod
    def from_json(entry: Mapping[str, Any], source: str = "manifest.json") -> Manifest:
        """The manifest of a JSON object.

        CacheError for another format, an object that was changed, or a fingerprint of other parts.
        """
        entry = dict(entry)
        version = entry.get("format_version")
        if version != FORMAT_VERSION:
            raise CacheError(
                f"{source}: format {shown_value(version)}, this code reads {FORMAT_VERSION}; rebuild with "
                "`bert2ctc cache build`"
            )
        if entry.pop("sha256", "") != sha256_of(canonical_json(entry)):
            raise CacheError(
                f"{source}: changed since it was written; fetch or build the cache again with "
                "`bert2ctc cache build`"
            )
        with FILES.faults_told(source, f"not a cache manifest; {_AGAIN}"):
            manifest = typed(Manifest, entry)
        found = fingerprint_of(manifest.recipe, manifest.contents_sha256)
        if found != manifest.fingerprint:
            raise CacheError(
                f"{source}: recipe and passages make fingerprint {found}, the manifest says "
                f"{manifest.fingerprint}; fetch or build the cache again with `bert2ctc cache build`"
            )
        return manifest

    def differences(self, config: CacheConfig, teacher_name: str, normaliser: Mapping[str, Any]) -> list[str]:
        """One phrase per setting in which this cache differs from what a run asks for; [] where none does.

        teacher_name : "" leaves the teacher out of the comparison
        """
        wanted = recipe_of(self.teacher, config, normaliser)
        parts = [
            {name: shown(value) for name, value in asdict(recipe).items()}
            | {"special_tokens": shown_policy(recipe.special_tokens)}
            for recipe in (self.recipe, wanted)
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
    return fingerprint_of(recipe, contents_sha256(passage_digests))


def fingerprint_of(recipe: Recipe, contents: str) -> str:
    """The same from `contents_sha256` of the passage digests."""
    parts = {"recipe": asdict(recipe), "contents": contents}
    return sha256_of(canonical_json(parts))[:FINGERPRINT_CHARACTERS]


def write_receipt(folder: Path, receipt: Receipt) -> None:
    """Write `receipts/<shard>.json`."""
    write_whole(folder / RECEIPTS / f"{receipt.shard}.json", json.dumps(asdict(receipt)) + "\n")


def remove_receipt(folder: Path, shard: int) -> None:
    """Take a shard's receipt away, before its rows are written again."""
    (folder / RECEIPTS / f"{shard}.json").unlink(missing_ok=True)


def read_receipts(folder: Path) -> dict[int, Receipt]:
    """Shard -> receipt of a build; CacheError for a damaged one, and for one in another's place."""
    receipts = {}
    for path in (folder / RECEIPTS).glob("*.json"):
        receipt = FILES.record(Receipt, path, "not a receipt; delete it and rerun `bert2ctc cache build`")
        if path.name != f"{receipt.shard}.json":
            raise CacheError(
                f"{path}: the receipt of shard {receipt.shard}; delete it and rerun `bert2ctc cache build`"
            )
        receipts[receipt.shard] = receipt
    return dict(sorted(receipts.items()))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a published cache; CacheError where there is none, another format or damage.

    A folder that is named like a fingerprint holds the cache of that fingerprint or none.
    """
    path = folder / MANIFEST
    if not is_there(path):
        raise CacheError(
            f"{folder}: no {MANIFEST}, so no finished cache; make one with `bert2ctc cache build`"
        )
    manifest = Manifest.from_json(FILES.json(path, _AGAIN), source=str(path))
    name = folder.absolute().name
    if is_fingerprint(name) and name != manifest.fingerprint:
        raise CacheError(
            f"{folder}: holds another cache, {manifest.fingerprint}; move it to a folder of that name, or "
            "remove it"
        )
    return manifest


def is_fingerprint(name: str) -> bool:
    """Whether a folder's name can be a cache's."""
    return re.fullmatch(f"[0-9a-f]{{{FINGERPRINT_CHARACTERS}}}", name) is not None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, the last file of a cache."""
    write_whole(folder / MANIFEST, json.dumps(manifest.to_json(), indent=1) + "\n")
