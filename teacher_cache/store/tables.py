"""The tables of a cache, passages and vocabulary: their laws, and what they are read as."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from teacher_cache.errors import CacheError
from teacher_cache.store.layout import VOCABULARY_BYTES, Layout
from teacher_cache.store.manifest import contents_sha256


def passages_fault(start: np.ndarray, length: np.ndarray, layout: Layout) -> str:
    """What is wrong with the rows of the passages, in words; "" where they cover every row once, in order."""
    ended = np.cumsum(length, dtype=np.int64)
    if not np.array_equal(start, ended - length) or length.min() < 1 or ended[-1] != layout.num_rows:
        return "passages do not cover every row once, in order"
    return ""


def vocabulary_fault(utf8: np.ndarray, end: np.ndarray, is_special: np.ndarray) -> str:
    """What is wrong with the vocabulary, in words; "" for pieces of text, each special or not."""
    if (np.diff(end, prepend=0) < 0).any() or end[-1] != len(utf8):
        return "vocabulary/end does not cut vocabulary/utf8 into pieces"
    try:
        pieces_of(utf8, end)
    except UnicodeDecodeError as error:
        return f"vocabulary/utf8 holds a piece that is no text ({error.reason})"
    if is_special.max() > 1:
        return "vocabulary/is_special holds values other than 0 and 1"
    return ""


def tables_faults(tables: Mapping[str, np.ndarray], layout: Layout, contents: str) -> list[str]:
    """Every law that the tables break, one line each.

    contents : sha256 of the passage digests, which the fingerprint is made of
    """
    try:
        is_other = contents_sha256(tables["passage/digest"]) != contents
        faults = (
            ["the passages are not those of the fingerprint: they have another contents_sha256"]
            if is_other
            else []
        )
    except CacheError as error:
        faults = [str(error)]
    faults += [
        passages_fault(tables["passage/start"], tables["passage/length"], layout),
        vocabulary_fault(tables[VOCABULARY_BYTES], tables["vocabulary/end"], tables["vocabulary/is_special"]),
    ]
    return [fault for fault in faults if fault]


def pieces_of(utf8: np.ndarray, end: np.ndarray) -> list[str]:
    """The pieces in id order. Raises UnicodeDecodeError for bytes that are no text."""
    text, ends = utf8.tobytes(), end.tolist()
    return [text[first:last].decode("utf-8") for first, last in zip([0, *ends], ends, strict=False)]
