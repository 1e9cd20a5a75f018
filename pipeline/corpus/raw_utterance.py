"""What reading and validating a corpus share: an utterance as found, and an item to reject."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RawUtterance:
    """One utterance as the corpus states it; nothing is checked yet.

    audio : path relative to the data root, whether it exists or not     text : before normalisation
    seconds : duration as a manifest declares it, None where nothing is declared
    """

    id: str
    audio: str
    text: str
    speaker: str = ""
    chapter: str = ""
    position: int = 0
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class BadItem:
    """One item that cannot be used. reason : a short kind, for counting     detail : the value and limit."""

    split: str
    id: str
    reason: str
    detail: str = ""
