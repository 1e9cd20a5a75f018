"""A user's own recordings, of any length, to words with their times, one recording after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from student.data.audio import Say, recording_seconds
from student.data.audio_blocks import recording_blocks
from student.decoding.greedy import greedy_ctc_decode
from student.frames import encoder_frame_samples, encoder_window_samples
from student.inference.long_audio import Cutting, LongListener
from student.inference.recogniser import Recogniser, load_recogniser
from student.inference.word_times import frame_words, starts_word


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a recording; seconds from its start, confidence in 0..1."""

    text: str
    start_seconds: float
    end_seconds: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """What is said in a recording; words in the order of their times, seconds of the whole recording."""

    path: Path
    seconds: float
    text: str
    words: tuple[Word, ...]


def transcribe(
    run: Path, audio_paths: Sequence[Path], device: str = "auto", say: Say = lambda line: None
) -> list[tuple[Path, str]]:
    """(path, text) of each recording, in order.

    run : a run folder, a checkpoint of it, or an exported model
    say : gets a line with the model and device in use, and one on each recording that had to be converted
    Raises StudentError for a file that is absent or no recording before any is transcribed, and for one
    whose samples cannot be read.
    """
    for path in audio_paths:
        recording_seconds(path)
    recogniser = load_recogniser(run, device)
    say(recogniser.description)
    return [(path, transcript_of(recogniser, path, say).text) for path in audio_paths]


def transcript_of(
    recogniser: Recogniser,
    path: Path,
    say: Say = lambda line: None,
    advance: Callable[[float], None] = lambda seconds: None,
    cutting: Cutting | None = None,
) -> Transcript:
    """What is said in a file, greedily decoded, in memory that does not grow with its length.

    say : gets a line where it is converted     advance : gets the seconds of each block that was read
    The text of a recording that is not cut is `Recogniser.text_of`'s.
    Raises StudentError for a file that cannot be decoded, or holds no samples, NaN or infinity.
    """
    features, subsampling = recogniser.config.features, recogniser.config.conformer.subsampling
    rate, units = features.sample_rate_hz, recogniser.units
    step = encoder_frame_samples(features, subsampling)
    lead = (encoder_window_samples(features, subsampling) - step) / 2  # a frame's time is that of its middle
    listener = LongListener(
        listen=lambda waveform: _heard(recogniser, waveform),
        starts_word=torch.tensor(starts_word(units)),
        frame_samples=step,
        sample_rate_hz=rate,
        cutting=cutting or Cutting(),
    )
    num_samples = 0

    def counted(blocks: Iterator[Tensor]) -> Iterator[Tensor]:
        nonlocal num_samples
        for block in blocks:
            yield block
            num_samples += len(block)
            advance(len(block) / rate)

    texts, found = [], []
    for first_frame, logits in listener.pieces(counted(recording_blocks(path, rate, say))):
        ids = greedy_ctc_decode(logits.unsqueeze(0), torch.tensor([len(logits)]))[0]
        texts.append(units.decode(ids))
        found += [(first_frame, word) for word in frame_words(logits.log_softmax(-1), ids, units)]
    words = tuple(
        Word(
            word.text,
            min((step * (first_frame + word.first_frame) + lead), num_samples) / rate,
            min((step * (first_frame + word.end_frame) + lead), num_samples) / rate,
            word.confidence,
        )
        for first_frame, word in found
    )
    return Transcript(path, num_samples / rate, " ".join(filter(None, texts)), words)


def _heard(recogniser: Recogniser, waveform: Tensor) -> Tensor:
    return recogniser.final_logits(waveform.unsqueeze(0), torch.tensor([len(waveform)]))[0]
