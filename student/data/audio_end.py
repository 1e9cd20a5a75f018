"""Whether a recording ends where it should: a header promises samples that a truncated file does not hold."""

from __future__ import annotations

import os
import re
from pathlib import Path

import soundfile

_LARGEST_OGG_PAGE_BYTES = 27 + 255 + 255 * 255  # RFC 3533, section 6
_LAST_PAGE_FLAG = 4
# libsndfile shortens a cut WAV or AIFF to what is there, and says so in its log alone. Length
# 2^32 - 1 is what streaming writers put there when they cannot seek back.
_CUT_CHUNK = re.compile(r"^\s*(?:data|SSND) : (\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN_LENGTH = 0xFFFFFFFF


def what_is_cut(audio: soundfile.SoundFile, path: Path, decoded: int) -> str:
    """What of a recording is missing, in words; "" for a whole one.

    decoded : samples per channel that came out until its end
    """
    if decoded != audio.frames:
        return f"{decoded} samples of the {audio.frames} that its header declares"
    for match in _CUT_CHUNK.finditer(audio.extra_info):
        declared, present = map(int, match.groups())
        if present < declared != _UNKNOWN_LENGTH:
            return f"{present} bytes of the {declared} that its header declares"
    return "" if _ends_as_ogg_should(path) else "its stream stops before the last page ends"


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
