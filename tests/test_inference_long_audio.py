"""Long recordings: cut between words, every word heard once and at its time, no more held than asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from student.data.units import Units, train_units
from student.decoding.greedy import greedy_ctc_decode
from student.errors import StudentError
from student.inference.long_audio import Cutting, LongListener, cut_frame
from student.inference.word_times import frame_words, starts_word

RATE, FRAME = 1_000, 40  # samples a second, and of a frame: 25 frames a second
SENTENCES = ["the red ship", "a flower", "the blue ship sank", "red red flower", "no", "the ship"]


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Units:
    return train_units(SENTENCES, tmp_path_factory.mktemp("units") / "a.model", 24)[0]


def spoken(units: Units, text: str) -> Tensor:
    """A waveform whose every frame is the number of its unit: spikes of a frame, blanks between."""
    frames = [0]
    for unit in units.encode(text):
        frames += [unit, 0]
    return torch.tensor(frames, dtype=torch.float32).repeat_interleave(FRAME)


def silence(seconds: float) -> Tensor:
    return torch.zeros(round(seconds * RATE / FRAME) * FRAME)


class Ear:
    """Posteriors from `spoken`, each frame from its own samples; remembers the longest waveform."""

    def __init__(self, units: Units) -> None:
        self.size, self.longest, self.heard = units.size, 0, 0

    def __call__(self, waveform: Tensor) -> Tensor:
        self.longest = max(self.longest, len(waveform))
        self.heard += len(waveform)
        ids = waveform[: len(waveform) // FRAME * FRAME : FRAME].long()
        return 20.0 * torch.nn.functional.one_hot(ids, self.size).float()


def in_blocks(waveform: Tensor, size: int) -> Iterator[Tensor]:
    yield from waveform.split(size)


def words_heard(
    units: Units, waveform: Tensor, cutting: Cutting, block: int, ear: Ear
) -> list[tuple[str, int, int]]:
    listener = LongListener(
        listen=ear,
        starts_word=torch.tensor(starts_word(units)),
        frame_samples=FRAME,
        sample_rate_hz=RATE,
        cutting=cutting,
    )
    found, frames = [], 0
    for first, logits in listener.pieces(in_blocks(waveform, block)):
        assert first == frames, "each frame is in one piece"
        frames += len(logits)
        ids = greedy_ctc_decode(logits[None], torch.tensor([len(logits)]))[0]
        for word in frame_words(logits.log_softmax(-1), ids, units):
            found.append((word.text, first + word.first_frame, first + word.end_frame))
    assert frames == len(waveform) // FRAME
    return found


@pytest.mark.parametrize("longest", [4.0, 6.5, 10.0, 1000.0])
@pytest.mark.parametrize("block", [130, 1000, 5000])
def test_utterances_joined_by_silences_give_the_words_of_each_alone_at_their_times(
    units: Units, longest: float, block: int
) -> None:
    random, parts, expected, at = np.random.default_rng(3), [], [], 0
    whole = Cutting(longest_seconds=1000.0)
    for number in range(30):
        alone = spoken(units, SENTENCES[number % len(SENTENCES)])
        own = words_heard(units, alone, whole, 10**6, Ear(units))
        assert [word for word, _, _ in own] == SENTENCES[number % len(SENTENCES)].split()
        expected += [(word, at + first, at + end) for word, first, end in own]
        parts += [alone, silence(random.uniform(0.5, 1.5))]
        at += (len(parts[-2]) + len(parts[-1])) // FRAME
    ear = Ear(units)
    waveform = torch.cat(parts)
    assert words_heard(units, waveform, Cutting(longest_seconds=longest), block, ear) == expected
    assert ear.longest <= longest * RATE and ear.heard <= 3 * len(waveform)
    times = [time for _, first, end in expected for time in (first, end)]
    assert times == sorted(times)


def test_speech_without_pauses_is_cut_between_words_and_none_is_lost(units: Units) -> None:
    text = " ".join(SENTENCES * 8)
    cutting = Cutting(longest_seconds=4.0)
    heard = words_heard(units, spoken(units, text), cutting, 777, Ear(units))
    assert " ".join(word for word, _, _ in heard) == text


def test_the_cut_prefers_late_pauses_then_word_ends_then_any_blank() -> None:
    starts = torch.tensor([False, True, False])  # 1 begins a word, 2 goes on with it

    def cut(text: str) -> int:
        return cut_frame(torch.tensor([int(letter) for letter in text]), starts, pause=3, edge=2)

    assert cut("1200000000012000120") == 14  # 13..15: a late pause, however long the early one
    assert cut("1200000000012200122") == 6  # the late run is no pause
    assert cut("1202000201200022001") == 16  # short, but between words
    assert cut("12" + "2002" * 4 + "2") == 16  # within a word, because there is no other
    assert cut("2" * 19) == 17
    assert cut("0" * 19) == (9 + 17) // 2


def test_a_cutting_that_cannot_be_is_refused() -> None:
    for wrong in ({"pause_seconds": 0.0}, {"longest_seconds": 0.2}, {"edge_seconds": 11.0}):
        with pytest.raises(StudentError, match="pauses"):
            Cutting(**wrong)


def test_an_empty_recording_has_one_empty_piece(units: Units, tmp_path: Path) -> None:
    assert words_heard(units, torch.zeros(FRAME - 1), Cutting(), 10, Ear(units)) == []
