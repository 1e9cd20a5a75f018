"""What is labelled: transcripts with their context as passages, known by a digest of the text alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError

DIGEST_BYTES = 16


class TranscriptEntry(Protocol):
    """What a manifest must say about an utterance; `text` is normalised already.

    chapter : unique within the split     position : ascends within the chapter
    """

    @property
    def id(self) -> str: ...  # noqa: D102

    @property
    def text(self) -> str: ...  # noqa: D102

    @property
    def chapter(self) -> str: ...  # noqa: D102

    @property
    def position(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Passage:
    """Normalised text between its two contexts; only the tokens of `text` are masked and stored."""

    left: str
    text: str
    right: str

    @property
    def digest(self) -> bytes:
        """16 bytes: blake2b over the three UTF-8 parts, each behind its length as 8 little-endian bytes.

        The lengths make the boundaries part of what is hashed: ("a b", "c") differs from ("a", "b c").
        """
        blake = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for part in (self.left, self.text, self.right):
            encoded = part.encode("utf-8")
            blake.update(len(encoded).to_bytes(8, "little"))
            blake.update(encoded)
        return blake.digest()


def passages_of(entries: Sequence[TranscriptEntry], config: CacheConfig) -> list[Passage]:
    """One passage per entry of one split, in the same order.

    Under the context policy "utterance" both contexts are empty. Under "chapter" they are whole
    neighbours of the same chapter, left then right then left again, nearest first, until the next one
    of a side would exceed `context_words` words on both sides together; that side then ends.
    Raises CacheError under "chapter" where an entry names no chapter or two share a position.
    """
    if config.context == "utterance":
        return [Passage("", entry.text, "") for entry in entries]
    passages: list[Passage | None] = [None] * len(entries)
    for members in _chapters(entries):
        texts = [entries[member].text for member in members]
        for index, member in enumerate(members):
            passages[member] = _in_context(texts, index, config.context_words)
    return [passage for passage in passages if passage is not None]


def _chapters(entries: Sequence[TranscriptEntry]) -> list[list[int]]:
    """Indices into `entries`, one list per chapter, ordered by position."""
    chapters: dict[str, dict[int, int]] = {}
    for index, entry in enumerate(entries):
        if not entry.chapter:
            raise CacheError(
                f"utterance {entry.id!r} names no chapter; give `chapter` and `position` in the corpus "
                'manifest, or set [cache] context = "utterance"'
            )
        members = chapters.setdefault(entry.chapter, {})
        other = members.setdefault(entry.position, index)
        if other != index:
            raise CacheError(
                f"utterances {entries[other].id!r} and {entry.id!r} share position {entry.position} of "
                f'chapter {entry.chapter!r}; number them, or set [cache] context = "utterance"'
            )
    return [[members[position] for position in sorted(members)] for members in chapters.values()]


def _in_context(texts: Sequence[str], index: int, budget_words: int) -> Passage:
    left: list[str] = []
    right: list[str] = []
    sides = [(left, range(index - 1, -1, -1)), (right, range(index + 1, len(texts)))]
    open_sides = [(chosen, iter(candidates)) for chosen, candidates in sides]
    while open_sides:
        chosen, candidates = open_sides.pop(0)
        neighbour = next(candidates, None)
        if neighbour is None:
            continue
        words = len(texts[neighbour].split())
        if words > budget_words:
            continue
        budget_words -= words
        chosen.append(texts[neighbour])
        open_sides.append((chosen, candidates))
    return Passage(" ".join(reversed(left)), texts[index], " ".join(right))
