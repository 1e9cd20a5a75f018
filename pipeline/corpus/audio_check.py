"""Decode an audio file to its end: headers alone promise samples that a truncated file does not hold."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from pipeline.files import FILES
from student.data.audio_end import what_is_cut

_BLOCK_SAMPLES = 1 << 16


@dataclass(frozen=True, slots=True)
class AudioFacts:
    """What decoding found. fault : "" or a short kind     detail : more about the fault."""

    num_samples: int = 0
    sample_rate_hz: int = 0
    num_channels: int = 0
    fault: str = ""
    detail: str = ""


def check_audio(path: Path) -> AudioFacts:
    """The facts of one file after decoding every sample; faults are returned, never raised.

    Faults: "missing audio", "undecodable audio" (with libsndfile's words, or samples that are not
    finite) and "truncated audio" (fewer samples than its header or its stream's end promises).
    """
    if not os.path.isfile(path):  # False for a name that no file could have, too
        return AudioFacts(fault="missing audio", detail=path.name)
    try:
        with soundfile.SoundFile(path) as audio:
            decoded, is_finite = _decode(audio)
            facts = AudioFacts(decoded, audio.samplerate, audio.channels)
            cut = what_is_cut(audio, path, decoded)
    except (OSError, RuntimeError) as error:  # libsndfile's own error is a RuntimeError
        return AudioFacts(fault="undecodable audio", detail=str(error).replace("\n", " "))
    if cut:
        return AudioFacts(fault="truncated audio", detail=cut)
    return facts if is_finite else AudioFacts(fault="undecodable audio", detail="samples that are not finite")


def _decode(audio: soundfile.SoundFile) -> tuple[int, bool]:
    """Samples per channel that came out, and whether all are finite; memory stays bounded."""
    decoded, is_finite = 0, True
    while len(block := audio.read(_BLOCK_SAMPLES, dtype="float32")):
        decoded += len(block)
        is_finite = is_finite and bool(np.isfinite(block).all())
    return decoded, is_finite


@contextmanager
def silent_decoders() -> Iterator[None]:
    """Keep libmpg123's notes off the screen: it writes harmless ones about valid files to descriptor 2.

    Python's own standard error goes on to where it went.
    """
    if sys.stderr is not sys.__stderr__ or sys.stderr is None:
        yield  # somebody captures or redirects it already
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere, os.fdopen(kept, "w", buffering=1) as screen:
        os.dup2(nowhere.fileno(), 2)
        sys.stderr = screen
        try:
            yield
        finally:
            screen.flush()
            os.dup2(kept, 2)
            sys.stderr = sys.__stderr__


def _lines(path: Path) -> Iterator[str]:
    return (line for _, line in FILES.lines(path, "rerun `bert2ctc data prepare`"))


def silent_mp3_decoder(prepared: Path) -> AbstractContextManager[None]:
    """Silence the MP3 decoder's notes about valid files, where there are MP3 files to decode."""
    has_mp3 = any('.mp3"' in line for path in prepared.glob("*.jsonl") for line in _lines(path))
    return silent_decoders() if has_mp3 else nullcontext()
