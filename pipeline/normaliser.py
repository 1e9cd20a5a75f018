"""The one versioned normaliser, applied once: manifests and the teacher's text hold what it returns."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from pipeline.errors import PipelineError

NORMALISER_NAME = "english"
NORMALISER_VERSION = 1  # raised whenever any text comes out differently

ALPHABET = "abcdefghijklmnopqrstuvwxyz'"
_UNSPEAKABLE = "\0"  # ASCII, so that translate() keeps its fast path
_APOSTROPHES = "'`´‘’‛ʻʼʹ′＇"
_SPOKEN_PUNCTUATION = "&%@#§‰‱"  # read aloud as words, so never dropped in silence
_LETTERS = {"æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ħ": "h", "ı": "i"}
# LibriSpeech spells titles out and never writes these two; "st" and "dr" have more than one reading.
_EXPANSIONS = {"mr": "mister", "mrs": "missus"}
# LibriSpeech keeps an apostrophe that ends a word (NOTHIN') and drops one that begins it (TIS, EM).
_LONE_APOSTROPHES = re.compile(r"(?<![a-z])'+|'{2,}")


class UnspeakableText(PipelineError):
    """The text holds characters that have no one spoken form; `characters` names each once, in order."""

    def __init__(self, characters: str) -> None:
        self.characters = characters
        named = [
            f"{character!r} ({unicodedata.name(character, f'U+{ord(character):04X}')})"
            for character in characters[:5]
        ]
        more = f" and {len(characters) - 5} more" if len(characters) > 5 else ""
        super().__init__(f"no spoken form for {', '.join(named)}{more}; write it out in words")


def normalise(text: str) -> str:
    """Lower-case words of a-z and apostrophe, single spaces between, "" where there is no word.

    Compatibility forms, accents and ligatures become plain letters, punctuation and hyphens become
    spaces, curly apostrophes straight ones; "mr" and "mrs" are spelled out. Idempotent.
    Raises UnspeakableText for digits, symbols and other scripts.
    """
    spoken = text.translate(_TABLE)
    if _UNSPEAKABLE in spoken:
        raise UnspeakableText("".join(c for c in dict.fromkeys(text) if _TABLE[ord(c)] == _UNSPEAKABLE))
    if "'" in spoken:
        spoken = _LONE_APOSTROPHES.sub(" ", spoken)
    words = spoken.split()
    if "mr" in spoken:
        words = [_EXPANSIONS.get(word, word) for word in words]
    return " ".join(words)


def normaliser_identity() -> dict[str, Any]:
    """Name, version and settings: what a cache's recipe and a teacher's folder record."""
    settings = {"alphabet": ALPHABET, "expansions": dict(_EXPANSIONS)}
    return {"name": NORMALISER_NAME, "version": NORMALISER_VERSION, "settings": settings}


class _SpokenForms(dict[int, str]):
    """Code point to what is spoken there, filled as characters turn up."""

    def __missing__(self, codepoint: int) -> str:
        self[codepoint] = form = _spoken_form(chr(codepoint))
        return form


def _spoken_form(character: str) -> str:
    category = unicodedata.category(character)
    if character in _APOSTROPHES:
        return "'"
    if character.isspace() or category[0] == "Z":
        return " "
    if category[0] == "L":
        return _latin(character)
    if category[0] == "M" or category == "Cf":
        return ""  # an accent belongs to the letter before; zero-width characters are silent
    if category[0] == "P" and character not in _SPOKEN_PUNCTUATION:
        return " "
    return _UNSPEAKABLE


def _latin(character: str) -> str:
    parts = unicodedata.normalize("NFKD", character).casefold()
    letters = "".join(_LETTERS.get(part, part) for part in parts if not unicodedata.combining(part))
    return letters if letters.isascii() and letters.isalpha() else _UNSPEAKABLE


_TABLE = _SpokenForms()
