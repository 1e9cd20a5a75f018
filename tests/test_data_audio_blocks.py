"""A recording in blocks is the recording: any rate, any channels, memory that its length does not change."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torchaudio.functional import resample

from student.data.audio import read_recording
from student.data.audio_blocks import recording_blocks, waveform_blocks
from student.errors import StudentError

RATE = 16_000


@dataclass
class CountingReader:
    """A recording that is made as it is read, and remembers the most that was asked at once."""

    seconds: float
    samplerate: int = RATE
    largest: int = 0
    given: int = 0
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))

    def read(self, frames: int, *, dtype: str, always_2d: bool) -> np.ndarray:
        assert dtype == "float32" and always_2d
        self.largest = max(self.largest, frames)
        count = min(frames, round(self.seconds * self.samplerate) - self.given)
        self.given += count
        return self.random.uniform(-1, 1, (count, 2)).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("block_seconds", [0.05, 0.31, 10.0])
def test_blocks_joined_are_the_whole_recording_converted(
    rate: int, block_seconds: float, tmp_path: Path
) -> None:
    samples = np.random.default_rng(rate).uniform(-1, 1, (int(1.2345 * rate), 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    said: list[str] = []
    joined = torch.cat(list(recording_blocks(tmp_path / "a.wav", RATE, said.append, block_seconds)))
    told: list[str] = []
    whole = read_recording(tmp_path / "a.wav", RATE, told.append)
    assert said == told and "2 channels" in said[0]
    mono = torch.from_numpy(samples).mean(1)
    torch.testing.assert_close(whole, resample(mono, rate, RATE) if rate != RATE else mono)
    torch.testing.assert_close(joined, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_no_more_is_read_or_held_of_a_long_recording_than_of_a_short_one(rate: int) -> None:
    read, blocks = {}, {}
    for seconds in (3.0, 60.0):
        reader = CountingReader(seconds, rate)
        lengths = [len(block) for block in waveform_blocks(reader, RATE, "noise", 0.5)]
        assert abs(sum(lengths) - seconds * RATE) <= 1
        read[seconds], blocks[seconds] = reader.largest, max(lengths)
    assert read[3.0] == read[60.0] <= 0.51 * rate and blocks[3.0] == blocks[60.0] <= 0.52 * RATE


def test_what_holds_no_samples_or_nan_or_is_cut_short_is_told(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    late = np.zeros(3 * RATE, dtype=np.float32)
    late[-1] = np.nan
    soundfile.write(tmp_path / "nan.wav", late, RATE, subtype="FLOAT")
    (tmp_path / "bad.flac").write_bytes(b"no audio")
    for name, reported in (("none.wav", "no samples"), ("nan.wav", "NaN"), ("bad.flac", "convert it")):
        with pytest.raises(StudentError, match=reported):
            list(recording_blocks(tmp_path / name, RATE, block_seconds=1.0))


FORMATS = {"wav": "PCM_16", "aiff": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "opus": "OPUS", "mp3": None}


@pytest.mark.parametrize("ending", FORMATS)
def test_what_is_cut_off_is_heard_to_its_end_and_told_and_what_is_whole_is_not(
    ending: str, tmp_path: Path
) -> None:
    path, kind = tmp_path / f"a.{ending}", "OGG" if ending == "opus" else ending
    samples = np.random.default_rng(7).uniform(-0.5, 0.5, 5 * RATE)
    soundfile.write(path, samples, RATE, subtype=FORMATS[ending], format=kind)
    told: list[str] = []
    whole = torch.cat(list(recording_blocks(path, RATE, told.append, 1.0)))
    assert not told and abs(len(whole) - 5 * RATE) < 0.1 * RATE
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    try:
        heard = torch.cat(list(recording_blocks(path, RATE, told.append, 1.0)))
    except StudentError as error:
        told.append(str(error))  # libsndfile may refuse what it cannot decode to its end
    else:
        assert 0 < len(heard) < 0.7 * len(whole)
    (line,) = told
    assert str(path) in line and ("is cut off after" in line or "convert it" in line)
