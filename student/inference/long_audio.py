"""A long recording heard piece by piece, each cut from the next where CTC is silent between two words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from student.data.units import BLANK_ID
from student.errors import StudentError

Listen = Callable[[Tensor], Tensor]  # float32 (S,) to logits float32 (T, V)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutting:
    """Where recordings are cut.

    longest_seconds : heard at once; a recording that is no longer is never cut
    pause_seconds : of blanks between two words make a pause
    edge_seconds : at the end of what was heard are not trusted: the rest of their word is not there
    """

    longest_seconds: float = 40.0  # LibriSpeech's longest utterance has 35 s
    pause_seconds: float = 0.3
    edge_seconds: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.pause_seconds <= self.longest_seconds or not 0 <= self.edge_seconds * 4 <= (
            self.longest_seconds
        ):
            raise StudentError(
                f"cutting {self.longest_seconds} s at pauses of {self.pause_seconds} s, "
                f"{self.edge_seconds} s off the end; a pause is above 0 and at most the whole, "
                "the end at most a quarter"
            )


class Piece(NamedTuple):
    """What CTC says of a part of a recording.

    first_frame : encoder frames of the recording before it     logits : float32 (T, V)
    """

    first_frame: int
    logits: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LongListener:
    """Hears a waveform of any length.

    listen : CTC's logits of a waveform; its frame t begins at sample t * frame_samples
    starts_word : bool (V,), the units that begin a word
    """

    listen: Listen
    starts_word: Tensor
    frame_samples: int
    sample_rate_hz: int
    cutting: Cutting = Cutting()

    def pieces(self, blocks: Iterable[Tensor]) -> Iterator[Piece]:
        """The pieces of the blocks' waveform in order; each frame is in one piece.

        Holds one block and `cutting.longest_seconds` of samples at most. What follows a cut is heard anew.
        """
        longest = round(self.cutting.longest_seconds * self.sample_rate_hz)
        held, first_frame = torch.zeros(0), 0
        for block in blocks:
            held = torch.cat([held, block])
            while len(held) > longest:
                logits = self.listen(held[:longest])
                cut = self._cut(logits.argmax(-1))
                yield Piece(first_frame, logits[:cut])
                first_frame += cut
                held = held[cut * self.frame_samples :]
        yield Piece(first_frame, self.listen(held))

    def _cut(self, best_units: Tensor) -> int:
        frames_per_second = self.sample_rate_hz / self.frame_samples
        pause = max(1, round(self.cutting.pause_seconds * frames_per_second))
        edge = round(self.cutting.edge_seconds * frames_per_second)
        return cut_frame(best_units, self.starts_word, pause, edge)


def cut_frame(best_units: Tensor, starts_word: Tensor, pause: int, edge: int) -> int:
    """The frame before which to cut, 1 and up: the middle of the longest run of blanks before a word.

    best_units : int64 (T,)     pause, edge : frames, as in `Cutting`
    Pauses in the second half come first; then any blanks between words, then any blanks at all. Where the
    best units hold no blank, the cut falls before the edge. Of equally long runs the last counts.
    """
    end = max(1, len(best_units) - edge)
    between: list[tuple[int, int]] = []
    inside: list[tuple[int, int]] = []
    for start, stop, is_between in _blank_runs(best_units.tolist(), starts_word.tolist()):
        start, stop = max(start, 1), min(stop, end)
        if start < stop:
            (between if is_between else inside).append((start, stop))
    half = len(best_units) // 2
    late = [(max(start, half), stop) for start, stop in between]
    for runs in ([run for run in late if run[1] - run[0] >= pause], between, inside):
        if runs:
            start, stop = max(runs, key=lambda run: (run[1] - run[0], run[0]))
            return (start + stop) // 2
    return end


def _blank_runs(best_units: list[int], starts_word: list[bool]) -> Iterator[tuple[int, int, bool]]:
    """Each run of blanks, [start, stop), and whether a word, or nothing, comes after it."""
    start = 0
    for is_blank, run in groupby(best_units, key=lambda unit: unit == BLANK_ID):
        stop = start + len(list(run))
        if is_blank:
            yield start, stop, stop == len(best_units) or starts_word[best_units[stop]]
        start = stop
