"""The text of a language model: the teacher's, and the training transcripts; never what is measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import FILES
from pipeline.language_model.settings import LanguageModelConfig
from teacher_cache.common.cores import num_cores
from teacher_cache.common.files import file_sha256
from teacher_cache.teacher_training.text import (
    SentenceCounts,
    SentenceRules,
    TranscriptOverlap,
    first_lines,
    is_held_out,
    sample_sentences,
)

MUCH_TEXT_BYTES = 8_000_000  # as it lies on the disk: below, processes take longer to start than to cut


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """Where text comes from.

    paths : of the text     train : the training transcripts, normalised
    measured : those of every other split, normalised: no sentence that overlaps one is used
    normalise, unspeakable, normaliser : the transcripts' normaliser, what it raises, its identity
    """

    config: LanguageModelConfig
    paths: tuple[Path, ...]
    train: Sequence[str]
    measured: Sequence[str]
    normalise: Callable[[str], str]
    unspeakable: type[Exception]
    normaliser: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageText:
    """Normalised sentences.

    sentences : the text's, then the transcripts'     held_out : of the text, and not among `sentences`
    counts : what became of the text     transcripts : of them used     transcripts_left_out : as overlapping
    """

    sentences: list[str]
    held_out: list[str]
    counts: SentenceCounts
    transcripts: int
    transcripts_left_out: int

    def described(self) -> dict[str, int]:
        """The counts, JSON-ready."""
        return {
            "sentences": len(self.sentences),
            "words": sum(sentence.count(" ") + 1 for sentence in self.sentences),
            "held_out": len(self.held_out),
            "unspeakable": self.counts.unspeakable,
            "overlapping": self.counts.overlapping,
            "transcripts": self.transcripts,
            "transcripts_left_out": self.transcripts_left_out,
        }


def text_recipe(request: TextRequest) -> dict[str, Any]:
    """Everything that decides the sentences, JSON-ready. PipelineError for a file that is not there."""
    config = request.config
    return {
        "text_sha256": [_digest(path) for path in request.paths],
        "normaliser": dict(request.normaliser),
        "transcripts_sha256": _digest_of_all(request.train),
        "with_transcripts": config.transcripts,
        "left_out_sha256": _digest_of_all(request.measured),
        "max_sentences": config.max_sentences,
        "max_words": config.max_words,
        "overlap_words": config.overlap_words,
        "held_out_fraction": config.held_out_fraction,
        "seed": config.seed,
    }


def language_text(request: TextRequest) -> LanguageText:
    """The sentences in an order of their own, the same at every call.

    The text's are those that the teacher may train on: none overlaps a transcript, of the training split
    neither, so that what the transcripts add is known. Training transcripts stand as often as they are
    spoken, but for those that overlap a measured split's.
    """
    config = request.config
    rules = SentenceRules(
        normalise=request.normalise,
        unspeakable=request.unspeakable,
        max_words=config.max_words,
        overlap_words=config.overlap_words,
    )
    sample: list[str] = []
    counts = SentenceCounts()
    if request.paths:
        text_bytes = sum(path.stat().st_size for path in request.paths)
        workers = num_cores() if text_bytes > MUCH_TEXT_BYTES else 1
        transcripts = [*request.measured, *request.train]
        sample, counts = sample_sentences(
            request.paths, rules, transcripts, config.max_sentences, config.seed, workers
        )
    held_out = [text for text in sample if is_held_out(text, config.held_out_fraction, config.seed)]
    unseen = set(held_out)
    sentences = [text for text in sample if text not in unseen]
    spoken = [text for text in request.train if text.strip()] if config.transcripts else []
    overlaps = TranscriptOverlap(request.measured, config.overlap_words).overlaps(spoken)
    used = [text for text, overlap in zip(spoken, overlaps, strict=True) if not overlap]
    sentences += used
    if not sentences:
        raise PipelineError(
            "no sentence is left to make a language model of: name text under [language_model], or set "
            "language_model.transcripts=true"
        )
    return LanguageText(
        sentences=sentences,
        held_out=held_out,
        counts=counts,
        transcripts=len(used),
        transcripts_left_out=len(spoken) - len(used),
    )


def words_of(sentences: Sequence[str]) -> Iterator[list[str]]:
    """Each sentence as its words."""
    return (sentence.split() for sentence in sentences)


def _digest(path: Path) -> str:
    if not path.is_file():
        raise PipelineError(f"{path}: no such text; put it there, or name another under [language_model]")
    with FILES.faults_told(path, "name another under [language_model]"):
        return file_sha256(path)


def _digest_of_all(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(texts)).encode()).hexdigest()


def words_in(request: TextRequest, lines: int) -> tuple[int, list[str]]:
    """About how many words the text and the transcripts hold, and sentences of the text's first lines.

    The rest of the files is taken to be like their first lines, byte for byte as they lie on the disk.
    """
    sample: list[str] = []
    num_words = 0.0
    for path in request.paths:
        found, share = first_lines(path, lines)
        for line in found:
            try:
                sample.append(request.normalise(line))
            except request.unspeakable:
                continue
        num_words += sum(len(line.split()) for line in found) / max(share, 1e-9)
    spoken = request.train if request.config.transcripts else []
    num_words += sum(len(text.split()) for text in spoken)
    most = request.config.max_sentences * request.config.max_words
    return int(min(num_words, most)), [text for text in (*sample, *spoken[:lines]) if text]
