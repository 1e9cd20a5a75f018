"""The small JSON files beside the arrays, receipts and manifest: written whole or not at all."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from teacher_cache.common.files import write_whole
from teacher_cache.errors import CacheError
from teacher_cache.store.manifest import Manifest, Receipt

MANIFEST = "manifest.json"
RECEIPTS = "receipts"


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
        raise CacheError(f"{path}: unreadable ({error}); check it with `bert2ctc cache verify`") from None
    if not isinstance(entry, dict):
        raise CacheError(f"{path}: not a JSON object; check it with `bert2ctc cache verify`")
    return entry
