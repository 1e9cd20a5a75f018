"""A recording as blocks at the model's rate, in memory that does not grow with its length."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, gcd
from pathlib import Path
from typing import Any, Protocol

import soundfile
import torch
from torch import Tensor
from torchaudio.functional import resample

from student.data.audio import Say, check_samples, conversion, decoding_faults_told
from student.data.audio_end import what_is_cut

BLOCK_SECONDS = 10.0
_FILTER_WIDTH, _ROLLOFF = 6, 0.99  # torchaudio's defaults: how far to both sides its resampling looks


class SampleReader(Protocol):
    """What is needed of an open soundfile.SoundFile."""

    @property
    def samplerate(self) -> int:
        """Hz."""

    def read(self, frames: int, *, dtype: str, always_2d: bool) -> Any:
        """The next float32 (S, channels), S at most `frames`, 0 at the end alone."""


def recording_blocks(
    path: Path, sample_rate_hz: int, say: Say = lambda line: None, block_seconds: float = BLOCK_SECONDS
) -> Iterator[Tensor]:
    """The blocks of `waveform_blocks`, of a file; `say` gets a line on what is converted or missing.

    Raises StudentError for a file that cannot be decoded, or holds no samples, NaN or infinity.
    """
    with decoding_faults_told(path), soundfile.SoundFile(path) as audio:
        if told := conversion(audio.channels, audio.samplerate, sample_rate_hz):
            say(f"{path}: {told}")
        yield from waveform_blocks(audio, sample_rate_hz, str(path), block_seconds)
        if cut := what_is_cut(audio, path, audio.tell()):
            say(f"{path}: is cut off after {audio.tell() / audio.samplerate:.1f} s: {cut}")


def waveform_blocks(
    audio: SampleReader, sample_rate_hz: int, name: str, block_seconds: float = BLOCK_SECONDS
) -> Iterator[Tensor]:
    """Float32 (S,) at `sample_rate_hz`, channels averaged; joined they are the whole recording, converted.

    Resampling sees as many samples beyond a block as its filter is wide, so a block's edge changes nothing.
    Raises StudentError for no samples, NaN or infinity.
    """
    rate = audio.samplerate
    unit = rate // gcd(rate, sample_rate_hz)  # so many samples become a whole number of samples
    reach = ceil(_FILTER_WIDTH * rate / (_ROLLOFF * min(rate, sample_rate_hz))) + 1
    margin = unit * ceil(reach / unit)
    step = unit * max(1, round(block_seconds * rate / unit))
    held, begin, emitted, is_last = torch.zeros(0), 0, 0, False  # begin, emitted: samples of the recording
    while not is_last:
        samples = torch.from_numpy(audio.read(step, dtype="float32", always_2d=True))
        is_last = not len(samples)
        if not is_last or not begin + len(held):
            check_samples(samples.mean(dim=1), name)
        held = torch.cat([held, samples.mean(dim=1)])
        total = begin + len(held)
        until = total if is_last else max(emitted, (total - margin) // unit * unit)
        if until > emitted:
            converted = resample(held, rate, sample_rate_hz) if rate != sample_rate_hz else held
            first, end = (ceil((at - begin) * sample_rate_hz / rate) for at in (emitted, until))
            yield converted[first:end]
        kept_from = max(0, until - margin)
        held, begin, emitted = held[kept_from - begin :], kept_from, until
