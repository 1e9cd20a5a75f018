"""Which frames the words of a greedy text come from: when each was said, and how sure CTC is of it.

CTC is peaky: a unit is a spike of a frame or two within its sound, so a word begins late and ends early.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torchaudio.functional import forced_align, merge_tokens

from student.data.units import BLANK_ID, Units
from student.inference.confidence import frame_confidence

_WORD_START = "▁"  # SentencePiece's sign


@dataclass(frozen=True, slots=True)
class FrameWord:
    """A word in frames [first, end) of what was heard; confidence in 0..1."""

    text: str
    first_frame: int
    end_frame: int
    confidence: float


def frame_words(log_probs: Tensor, unit_ids: Sequence[int], units: Units) -> list[FrameWord]:
    """The words of the units, each with the frames from its first unit to its last.

    log_probs : float32 (T, V) on the CPU     unit_ids : what was decoded from them, never the blank
    confidence : the least of the frames that say one of its units
    """
    sure, found = frame_confidence(log_probs), []
    for text, own in word_spans(log_probs, unit_ids, units):
        least = min(float(sure[start:stop].min()) for start, stop in own)
        found.append(FrameWord(text, own[0][0], own[-1][1], least))
    return found


def word_spans(
    log_probs: Tensor, unit_ids: Sequence[int], units: Units
) -> list[tuple[str, list[tuple[int, int]]]]:
    """The words of the units, each with the frames [first, end) of its units."""
    if not unit_ids:
        return []
    spans = unit_spans(log_probs, unit_ids)
    texts = [
        (units.decode(unit_ids[first:end]).strip(), spans[first:end])
        for first, end in word_ranges(unit_ids, units)
    ]
    return [(text, own) for text, own in texts if text]


def unit_spans(log_probs: Tensor, unit_ids: Sequence[int]) -> list[tuple[int, int]]:
    """Frames [first, end) of each unit by the likeliest alignment that says these units."""
    targets = log_probs.new_tensor(unit_ids).int().unsqueeze(0)
    path, scores = forced_align(log_probs.unsqueeze(0), targets, blank=BLANK_ID)
    return [(span.start, span.end) for span in merge_tokens(path[0], scores[0], blank=BLANK_ID)]


def starts_word(units: Units) -> list[bool]:
    """Of each unit whether it begins a word, the blank included."""
    return [piece.startswith(_WORD_START) for piece in units.pieces]


def word_ranges(unit_ids: Sequence[int], units: Units) -> list[tuple[int, int]]:
    """Runs [first, end) of units, one a word; the first unit begins a word whatever it is."""
    pieces = units.pieces
    firsts = [
        index for index, unit in enumerate(unit_ids) if index == 0 or pieces[unit].startswith(_WORD_START)
    ]
    return list(zip(firsts, [*firsts[1:], len(unit_ids)], strict=True))
