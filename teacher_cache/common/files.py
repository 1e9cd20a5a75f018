"""Small text and JSON files, written whole or not at all, and what differs between two of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from teacher_cache.errors import CacheError


def write_whole(path: Path, text: str) -> None:
    """Write through a partial name, flushed to the disk before it is renamed. CacheError where it cannot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CacheError(
            f"{path}: cannot write ({error.strerror}); see the disk's space and permissions, then try again"
        ) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write one JSON object for people and programs, whole or not at all."""
    write_whole(path, json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`section.key: old -> new` for every leaf in which two tables differ."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        left, right = old.get(key), new.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += differing_keys(left, right, f"{prefix}{key}.")
        elif left != right:
            lines.append(f"{prefix}{key}: {left!r} -> {right!r}")
    return lines


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and ASCII only, so that equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def sha256_of(text: str) -> str:
    """Hexadecimal sha256 of UTF-8 text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
