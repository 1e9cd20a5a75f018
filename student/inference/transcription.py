"""A user's own recordings to text, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from student.data.audio import MAX_SECONDS, check_recording, read_recording
from student.inference.recogniser import load_recogniser

__all__ = ["MAX_SECONDS", "transcribe"]


def transcribe(
    run: Path,
    audio_paths: Sequence[Path],
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> list[tuple[Path, str]]:
    """(path, text) of each recording, in order.

    run : a run folder, a checkpoint of it, or an exported model
    say : gets a line with the model and device in use, and one on each recording that had to be converted
    Raises StudentError for a file that cannot be decoded or lasts longer than MAX_SECONDS, before any
    is transcribed.
    """
    for path in audio_paths:
        check_recording(path)
    recogniser = load_recogniser(run, device)
    say(recogniser.description)
    texts = []
    for path in audio_paths:
        waveform = read_recording(path, recogniser.config.features.sample_rate_hz, say)
        texts.append((path, recogniser.text_of(waveform)))
    return texts
