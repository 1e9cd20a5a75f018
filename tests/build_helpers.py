"""What the tests of cache builds share: entries, and what a cache is on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fakes import WORDS, sentences

from teacher_cache.build.request import BuildRequest
from teacher_cache.config import BuildConfig, CacheConfig
from teacher_cache.store.layout import CHUNK_ROWS, ROW_ARRAYS, TABLE_ARRAYS

# Words that the tiny BERT spells with several pieces, so that whole words are cut by shard edges.
SPELT = ("shipshape", "don't", "moonlight", "kingdom")


@dataclass(frozen=True)
class Entry:
    id: str
    text: str
    chapter: str = "c"
    position: int = 0


def entries_of(texts: Sequence[str]) -> list[Entry]:
    return [Entry(f"u{index}", text, position=index) for index, text in enumerate(texts)]


def texts(count: int) -> list[str]:
    return sentences(count, seed=1, words=(*WORDS, *SPELT))


def build_request(
    teacher_folder: Path,
    root: Path,
    texts: Sequence[str],
    cache: CacheConfig | None = None,
    build: BuildConfig | None = None,
    **changes: Any,
) -> BuildRequest:
    """A build of the texts as one split; `changes` are of the request itself."""
    plain = BuildRequest(
        entries={"train": entries_of(texts)},
        teacher_folder=teacher_folder,
        cache_config=cache or CacheConfig(top_k=8),
        build_config=build or BuildConfig(rows_per_shard=CHUNK_ROWS),
        root=root,
        name="demo",
        normaliser={"name": "plain", "version": 1},
    )
    return replace(plain, **changes)


def stored(path: Path) -> dict[str, bytes]:
    """Every file of the arrays, as it lies on the disk."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for array in (*ROW_ARRAYS, *TABLE_ARRAYS)
        for file in sorted((path / array).rglob("*"))
        if file.is_file()
    }


def quiet(line: str) -> None:
    del line
