"""A transcript written down: as text, JSON, subtitles (SRT, WebVTT) and CTM, which NIST's sclite reads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from student.inference.transcription import Transcript, Word

_LINE_CHARACTERS = 42  # of a subtitle, as broadcasters have it
_CUE_CHARACTERS = 2 * _LINE_CHARACTERS
_CUE_SECONDS = 6.0
_PAUSE_SECONDS = 0.8  # between words of two cues


@dataclass(frozen=True, slots=True)
class Cue:
    """Words that are shown together; seconds from the recording's start."""

    start_seconds: float
    end_seconds: float
    text: str


def cues_of(words: Sequence[Word]) -> list[Cue]:
    """Cues of at most 84 characters and 6 s, a longer word alone; a pause of 0.8 s parts two."""
    found: list[Cue] = []
    for word in words:
        last = found[-1] if found else None
        if (
            last is not None
            and len(last.text) + 1 + len(word.text) <= _CUE_CHARACTERS
            and word.end_seconds - last.start_seconds <= _CUE_SECONDS
            and word.start_seconds - last.end_seconds < _PAUSE_SECONDS
        ):
            found[-1] = Cue(last.start_seconds, word.end_seconds, f"{last.text} {word.text}")
        else:
            found.append(Cue(word.start_seconds, word.end_seconds, word.text))
    return found


def as_text(transcript: Transcript) -> str:
    """The text, one line."""
    return f"{transcript.text}\n"


def as_json(transcript: Transcript) -> str:
    """One object on one line: audio, seconds, text, and the words with seconds and confidence."""
    content = {
        "audio": str(transcript.path),
        "seconds": round(transcript.seconds, 3),
        "text": transcript.text,
        "words": [
            {
                "word": word.text,
                "start_seconds": round(word.start_seconds, 3),
                "end_seconds": round(word.end_seconds, 3),
                "confidence": round(word.confidence, 4),
            }
            for word in transcript.words
        ],
    }
    return json.dumps(content, ensure_ascii=False) + "\n"


def as_srt(transcript: Transcript) -> str:
    """SubRip subtitles, numbered from 1."""
    blocks = [
        f"{number}\n{_clock(cue.start_seconds, ',')} --> {_clock(cue.end_seconds, ',')}\n{_lines(cue.text)}\n"
        for number, cue in enumerate(cues_of(transcript.words), start=1)
    ]
    return "\n".join(blocks)


def as_vtt(transcript: Transcript) -> str:
    """WebVTT subtitles (W3C); what would be markup is escaped."""
    blocks = [
        f"{_clock(cue.start_seconds, '.')} --> {_clock(cue.end_seconds, '.')}\n"
        f"{escape(_lines(cue.text), quote=False)}\n"
        for cue in cues_of(transcript.words)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def as_ctm(transcript: Transcript) -> str:
    """A line a word: recording, channel, start, duration, word, confidence.

    The recording is the file's name without its ending, its spaces underscores.
    """
    name = re.sub(r"\s", "_", transcript.path.stem)
    return "".join(
        f"{name} 1 {word.start_seconds:.3f} {word.end_seconds - word.start_seconds:.3f} "
        f"{word.text} {word.confidence:.4f}\n"
        for word in transcript.words
    )


# By the name of `bert2ctc transcribe --format`, which is the ending of its files too, but for text's
FORMATS: dict[str, Callable[[Transcript], str]] = {
    "text": as_text,
    "json": as_json,
    "srt": as_srt,
    "vtt": as_vtt,
    "ctm": as_ctm,
}
ENDINGS = {name: f".{name}" for name in FORMATS} | {"text": ".txt"}
ONE_A_FILE = ("srt", "vtt")  # formats that hold one recording a file


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"


def _lines(text: str) -> str:
    return "\n".join(_broken(text))


def _broken(text: str) -> Iterator[str]:
    """The text in lines as long as a subtitle's may be; a longer word has a line of its own."""
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > _LINE_CHARACTERS:
            yield line
            line = word
        else:
            line = f"{line} {word}".strip()
    yield line
