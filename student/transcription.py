"""A user's own recordings to text: any format that soundfile reads, any rate, any number of channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import soundfile
import torch
from torch import Tensor
from torchaudio.functional import resample

from student.errors import StudentError
from student.recogniser import load_recogniser

MAX_SECONDS = 120.0  # attention's memory grows with the square, and training hears about 35 s at most


def transcribe(
    run: Path,
    audio_paths: Sequence[Path],
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> list[tuple[Path, str]]:
    """(path, text) of each recording, in order.

    say : is told the model and device in use, and what was done to a recording that does not fit them
    Raises StudentError for a file that cannot be decoded or lasts longer than MAX_SECONDS, before any
    is transcribed.
    """
    for path in audio_paths:
        _check(path)
    recogniser = load_recogniser(run, device)
    say(recogniser.description)
    texts = []
    for path in audio_paths:
        waveform = _load(path, recogniser.config.features.sample_rate_hz, say)
        heard = recogniser.transcripts(waveform.unsqueeze(0), torch.tensor([len(waveform)]))
        texts.append((path, heard[max(heard)][0]))
    return texts


def _check(path: Path) -> None:
    if not path.is_file():
        raise StudentError(f"{path}: no such file; give the path of a recording")
    try:
        seconds = soundfile.info(path).duration
    except (OSError, soundfile.SoundFileError) as error:
        raise StudentError(f"{path}: cannot be decoded ({error}); convert it to FLAC or WAV") from None
    if seconds > MAX_SECONDS:
        raise StudentError(
            f"{path}: {seconds:.0f} s, {MAX_SECONDS:.0f} s is the limit; cut it at pauses into shorter files"
        )


def _load(path: Path, sample_rate_hz: int, say: Callable[[str], None]) -> Tensor:
    """Float32 (S,) at the model's rate, all channels averaged."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    waveform = torch.from_numpy(samples).mean(dim=1)
    if not len(waveform) or not bool(waveform.isfinite().all()):
        raise StudentError(f"{path}: holds no samples, NaN or infinity; record or convert it again")
    changes = [f"{samples.shape[1]} channels mixed to one"] if samples.shape[1] > 1 else []
    if rate != sample_rate_hz:
        waveform = resample(waveform, rate, sample_rate_hz)
        changes.append(f"{rate} Hz resampled to {sample_rate_hz} Hz")
    if changes:
        say(f"{path}: {', '.join(changes)}")
    return waveform
