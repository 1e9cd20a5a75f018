"""Which CTC units a teacher's piece is made of: two tokenizers meet at the characters of one text."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Spans = npt.NDArray[np.int64]

CONTINUATION = "##"  # WordPiece
SPACES = "▁Ġ"  # SentencePiece, and byte-level BPE


def unit_spans(
    pieces: Sequence[str], unit_pieces: Sequence[str], text: str, *, whole_words: bool
) -> Spans | None:
    """Units that spell each piece of a text, [start, stop), and those of <eos>: int64 (U + 1, 2).

    pieces : of the teacher, without special ones     unit_pieces : of the CTC units, in the text's order
    whole_words : the units of all words that the piece belongs to, not its own alone
    A unit that shares characters with a piece counts whole. <eos> has the units of the last piece. A piece
    without characters, a space alone, has those of what follows it. None where the pieces or the units do
    not spell the text: an unknown piece.
    """
    words = text.split()
    of_pieces, of_units = _character_spans(pieces, words), _character_spans(unit_pieces, words)
    if of_pieces is None or of_units is None or not len(of_pieces) or not len(of_units):
        return None
    num_characters = of_units[-1, 1]
    begins = np.minimum(of_pieces[:, 0], num_characters - 1)  # an empty piece stands at what follows it
    ends = np.maximum(of_pieces[:, 1], begins + 1)
    if whole_words:
        edges = np.cumsum([0, *(len(word) for word in words)])
        begins = edges[np.searchsorted(edges, begins, "right") - 1]
        ends = edges[np.searchsorted(edges, ends, "left")]
    start = np.searchsorted(of_units[:, 1], begins, "right")
    stop = np.searchsorted(of_units[:, 0], ends, "left")
    spans = np.stack([start, stop], axis=1)
    return np.concatenate([spans, spans[-1:]])


def _character_spans(pieces: Sequence[str], words: Sequence[str]) -> Spans | None:
    """Characters of the text without its spaces that each piece covers; None where they do not spell it.

    Case and accents aside, which an uncased tokenizer strips; or byte for byte.
    """
    letters = "".join(words)
    spoken = [_spoken(piece) for piece in pieces]
    folded, own = [_folded(letter) for letter in letters], [_folded(part) for part in spoken]
    if "".join(own) == "".join(folded):
        return _owned([len(part) for part in own], [len(letter) for letter in folded])
    own_bytes = bytes(_BYTE_OF.get(character, 0) for part in spoken for character in part)
    if own_bytes == letters.encode():
        return _owned([len(part) for part in spoken], [len(letter.encode()) for letter in letters])
    return None


def _owned(lengths: Sequence[int], widths: Sequence[int]) -> Spans:
    """Characters that each piece covers, from its length and the characters' widths, in one measure."""
    owner = np.append(np.repeat(np.arange(len(widths)), widths), len(widths))
    stops = np.cumsum(lengths, dtype=np.int64)
    starts = stops - np.asarray(lengths, dtype=np.int64)
    first, last = owner[starts], owner[np.maximum(stops, 1) - 1] + 1
    return np.stack([first, np.where(stops > starts, last, first)], axis=1)


def _spoken(piece: str) -> str:
    """The piece without the marks of its tokenizer."""
    if piece.startswith(CONTINUATION) and len(piece) > len(CONTINUATION):
        return piece[len(CONTINUATION) :]
    return piece.strip(SPACES)


def _folded(text: str) -> str:
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).casefold()


def _byte_table() -> dict[str, int]:
    """Character -> byte, as byte-level BPE shows bytes (Radford et al. 2019): most as themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_table()
