"""Which pieces of a vocabulary can stand in a normalised transcript: nobody says a full stop."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

SPOKEN_CHARACTERS = "abcdefghijklmnopqrstuvwxyz'"  # of the transcripts' normaliser
_SPOKEN = re.compile(f"[{SPOKEN_CHARACTERS}]+")
_SPACES = ("Ġ", "▁")  # what byte-level and SentencePiece vocabularies write for a space


def speakable_pieces(vocabulary: Sequence[str], backend: Any) -> np.ndarray:
    """Bool (V,), True for pieces of a-z and apostrophe alone, but for the sign that their tokenizer adds.

    backend : transformers' fast tokenizer of that vocabulary. WordPiece marks what goes on with a word
    (`##`), the others what begins one; a space alone is a piece of theirs, part of the word behind it.
    """
    continuation = getattr(backend.backend_tokenizer.model, "continuing_subword_prefix", None)
    signs = (continuation,) if continuation else _SPACES
    return np.array([_is_speakable(piece, signs) for piece in vocabulary], dtype=bool)


def _is_speakable(piece: str, signs: Sequence[str]) -> bool:
    if piece in _SPACES:
        return piece in signs
    sign = next((sign for sign in signs if piece.startswith(sign)), "")
    return _SPOKEN.fullmatch(piece.removeprefix(sign)) is not None
