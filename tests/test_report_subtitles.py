"""What is written of a transcript is read back: every word, its time and its confidence, by foreign rules."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report.subtitles import as_ctm, as_json, as_srt, as_text, as_vtt, cues_of
from student.inference.transcription import Transcript, Word

CLOCK = r"(\d\d+):([0-5]\d):([0-5]\d)([,.])(\d{3})"


def seconds_of(clock: str, point: str) -> float:
    hours, minutes, seconds, found, thousandths = re.fullmatch(CLOCK, clock).groups()  # type: ignore[union-attr]
    assert found == point
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(thousandths) / 1000


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    """Words in a row with pauses, up to beyond an hour."""
    at, words = draw(st.sampled_from([0.0, 59.9995, 3599.98, 7199.0])), []
    texts = st.text("abcé'<&>-", min_size=1, max_size=60).filter(lambda text: "--" not in text)
    for text in draw(st.lists(texts, max_size=30)):
        at += draw(st.floats(0, 2))
        end = at + draw(st.floats(0.04, 1.5))
        words.append(Word(text, at, end, draw(st.floats(0, 1))))
        at = end
    return Transcript(Path("a b/my talk.flac"), at + 1, " ".join(word.text for word in words), tuple(words))


def blocks_read(text: str, point: str) -> list[tuple[float, float, str]]:
    """(start, end, text) of subtitles: blocks parted by an empty line, a number before the times or none."""
    found = []
    for block in text.strip("\n").split("\n\n"):
        lines = block.split("\n")
        lines = lines[1:] if lines and lines[0].isdigit() else lines
        if lines != [""]:
            start, end = lines[0].split(" --> ")
            found.append((seconds_of(start, point), seconds_of(end, point), " ".join(lines[1:])))
            assert 1 <= len(lines) - 1 <= 3 and all(lines[1:])
    return found


@settings(max_examples=60, deadline=None)
@given(transcripts())
def test_subtitles_hold_every_word_in_order_within_its_cue(transcript: Transcript) -> None:
    srt = as_srt(transcript)
    numbers = [int(block.split("\n")[0]) for block in srt.split("\n\n") if block]
    assert numbers == list(range(1, len(numbers) + 1))
    vtt = as_vtt(transcript)
    assert vtt.startswith("WEBVTT\n") and "<" not in vtt.replace("-->", "")
    cues = cues_of(transcript.words)
    for read in (blocks_read(srt, ","), blocks_read(vtt.removeprefix("WEBVTT\n"), ".")):
        assert len(read) == len(cues)
        for (start, end, text), cue in zip(read, cues, strict=True):
            assert (start, end) == pytest.approx((cue.start_seconds, cue.end_seconds), abs=0.00051)
            assert unescape(text) == cue.text or text == cue.text
    assert " ".join(cue.text for cue in cues) == transcript.text
    for cue in cues:
        assert " " not in cue.text or (len(cue.text) <= 84 and cue.end_seconds - cue.start_seconds <= 6)
    for one, other in zip(cues, cues[1:], strict=False):
        assert one.end_seconds <= other.start_seconds


def test_a_long_pause_parts_two_cues() -> None:
    words = [Word("a", 0.0, 0.5, 1.0), Word("b", 1.2, 1.4, 1.0), Word("c", 2.3, 2.5, 1.0)]
    assert [cue.text for cue in cues_of(words)] == ["a b", "c"]


@settings(max_examples=40, deadline=None)
@given(transcripts())
def test_ctm_and_json_hold_every_word_s_time_and_confidence(transcript: Transcript) -> None:
    read = [line.split(" ") for line in as_ctm(transcript).splitlines()]
    loaded = json.loads(as_json(transcript))
    assert loaded["audio"] == "a b/my talk.flac" and loaded["text"] == transcript.text
    assert as_text(transcript) == transcript.text + "\n"
    for (name, channel, start, duration, text, confidence), entry, word in zip(
        read, loaded["words"], transcript.words, strict=True
    ):
        assert (name, channel, text, entry["word"]) == ("my_talk", "1", word.text, word.text)
        for begin, end, sure in (
            (float(start), float(start) + float(duration), float(confidence)),
            (entry["start_seconds"], entry["end_seconds"], entry["confidence"]),
        ):
            assert (begin, end) == pytest.approx((word.start_seconds, word.end_seconds), abs=0.0011)
            assert sure == pytest.approx(word.confidence, abs=0.0001)


def test_silence_is_written_down_as_such() -> None:
    silent = Transcript(Path("a.wav"), 2.0, "", ())
    assert [write(silent) for write in (as_text, as_srt, as_vtt, as_ctm)] == ["\n", "", "WEBVTT\n", ""]
    assert json.loads(as_json(silent))["words"] == []
