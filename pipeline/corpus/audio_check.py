"""Decode an audio file to its end: headers alone promise samples that a truncated file does not hold."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from pipeline.files import FILES

_BLOCK_SAMPLES = 1 << 16
_LARGEST_OGG_PAGE_BYTES = 27 + 255 + 255 * 255  # RFC 3533, section 6
_LAST_PAGE_FLAG = 4
# libsndfile shortens a cut WAV or AIFF to what is there, and says so in its log alone. Length
# 2^32 - 1 is what streaming writers put there when they cannot seek back.
_CUT_CHUNK = re.compile(r"^\s*(?:data|SSND) : (\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN_LENGTH = 0xFFFFFFFF


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
            cut = _what_is_cut(audio, decoded)
        if not cut and not _ends_as_ogg_should(path):
            cut = "its stream stops before the last page ends"
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


def _what_is_cut(audio: soundfile.SoundFile, decoded: int) -> str:
    if decoded != audio.frames:
        return f"{decoded} samples of the {audio.frames} that its header declares"
    for match in _CUT_CHUNK.finditer(audio.extra_info):
        declared, present = map(int, match.groups())
        if present < declared != _UNKNOWN_LENGTH:
            return f"{present} bytes of the {declared} that its header declares"
    return ""


def _ends_as_ogg_should(path: Path) -> bool:
    """False for an Ogg file (Vorbis, Opus) whose last page is cut, or does not say that it is the last."""
    with path.open("rb") as stream:
        if stream.read(4) != b"OggS":
            return True
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - _LARGEST_OGG_PAGE_BYTES))
        tail = stream.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < 27 or not page[5] & _LAST_PAGE_FLAG:
        return False
    num_segments = page[26]
    return len(page) >= 27 + num_segments + sum(page[27 : 27 + num_segments])


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
