"""The four folders that everything lies under: data, caches, runs and scratch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """Absolute folders; none of them needs to exist yet, and `data` may be read-only."""

    data: Path
    cache: Path
    runs: Path
    scratch: Path


def roots_from(options: Mapping[str, Path | None], environment: Mapping[str, str] = os.environ) -> Roots:
    """Each root from its option, else from BERT2CTC_<NAME>, else a folder below the working folder."""

    def root(name: str, default: str) -> Path:
        return Path(options.get(name) or environment.get(f"BERT2CTC_{name.upper()}") or default).absolute()

    return Roots(
        data=root("data", "data"),
        cache=root("cache", "caches"),
        runs=root("runs", "runs"),
        scratch=root("scratch", "scratch"),
    )
