"""Book text cut into sentences like transcripts, without what cannot be spoken or will be labelled."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import BinaryIO

import numpy as np

from teacher_cache.common.progress import progress
from teacher_cache.common.sizes import MEGABYTE
from teacher_cache.errors import CacheError

PARAGRAPHS_PER_BATCH = 2000
# After a stop, its closing quotes, and at a dash; not after the abbreviations that books are full of.
_SENTENCE_END = re.compile(
    r"(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)(?<!\bSt\.)(?<=[.!?;:])[\"'”’)\]_]*\s+|\s*(?:--+|—)\s*"
)
_HASH_STEP = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceRules:
    """How text becomes sentences.

    normalise : text -> spoken words with single spaces between, or "" where there is none
    unspeakable : what `normalise` raises for text that has no one spoken form
    overlap_words : so many words in a row shared with a transcript leave a sentence out
    """

    normalise: Callable[[str], str]
    unspeakable: type[Exception]
    max_words: int
    overlap_words: int


@dataclass(slots=True)
class SentenceCounts:
    """What became of the text: sentences kept, dropped as unspeakable, left out as overlapping.

    too_long : of those drawn, beyond the model's positions
    """

    kept: int = 0
    unspeakable: int = 0
    overlapping: int = 0
    too_long: int = 0


def cut_paragraph(paragraph: str, rules: SentenceRules, counts: SentenceCounts) -> list[str]:
    """Normalised sentences of at most max_words words; what cannot be spoken is dropped and counted.

    Neighbouring short sentences of a paragraph are joined while they fit, as the pauses of a reader
    join them, but never across a dropped one; a long one is cut into nearly equal parts.
    """
    pieces: list[str] = []
    group: list[str] = []
    for raw in _SENTENCE_END.split(paragraph):
        try:
            words = rules.normalise(raw).split()
        except rules.unspeakable:
            counts.unspeakable += 1
            pieces, group = _closed(pieces, group), []
            continue
        if len(group) + len(words) > rules.max_words:
            pieces, group = _closed(pieces, group), []
        num_parts = -(-len(words) // rules.max_words)
        for part in range(num_parts - 1):
            start, stop = (len(words) * edge // num_parts for edge in (part, part + 1))
            pieces.append(" ".join(words[start:stop]))
        group += words[len(words) * (num_parts - 1) // num_parts :] if num_parts > 1 else words
    return _closed(pieces, group)


def _closed(pieces: list[str], group: list[str]) -> list[str]:
    return [*pieces, " ".join(group)] if group else pieces


class TranscriptOverlap:
    """Finds sentences that share `overlap_words` words in a row with a transcript.

    A sentence shorter than that overlaps where it equals a whole transcript. Words are known by
    64-bit hashes, so that one in about 10^12 sentences may be left out without need, and none let in.
    """

    def __init__(self, transcripts: Iterable[str], overlap_words: int) -> None:
        if overlap_words < 1:
            raise CacheError(f"overlap_words {overlap_words} must be at least 1; set it to 8 or so")
        self._length = overlap_words
        self._whole = set(transcripts)
        words = dict.fromkeys(word for transcript in self._whole for word in transcript.split())
        self._id_of_word = {word: index for index, word in enumerate(words, start=1)}
        random = np.random.default_rng(0)
        self._word_hashes = random.integers(0, 2**64, size=len(words) + 1, dtype=np.uint64)
        windows, _ = self._windows(list(self._whole))
        self._known_windows = np.unique(windows)

    def overlaps(self, sentences: Sequence[str]) -> np.ndarray:
        """Bool (n,), True where a sentence overlaps a transcript."""
        found = np.array([sentence in self._whole for sentence in sentences], dtype=bool)
        windows, owner = self._windows(sentences)
        if len(windows) and len(self._known_windows):
            index = np.searchsorted(self._known_windows, windows).clip(max=len(self._known_windows) - 1)
            found[owner[self._known_windows[index] == windows]] = True
        return found

    def _windows(self, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Hashes u8 (w,) of the windows made of transcript words alone, and the sentence of each (w,)."""
        ids: list[int] = []
        starts = np.zeros(len(sentences), dtype=np.int64)
        for index, sentence in enumerate(sentences):
            starts[index] = len(ids)
            ids += [self._id_of_word.get(word, 0) for word in sentence.split()]
            ids.append(0)  # belongs to no transcript: no window runs across two sentences
        word = np.array(ids, dtype=np.int64)
        num_windows = max(len(word) - self._length + 1, 0)
        foreign_before = np.concatenate([[0], np.cumsum(word == 0)])
        span = foreign_before[self._length :][:num_windows] - foreign_before[:num_windows]
        firsts = np.flatnonzero(span == 0)
        hashes = np.zeros(len(firsts), dtype=np.uint64)
        for offset in range(self._length):
            hashes = hashes * _HASH_STEP + self._word_hashes[word[firsts + offset]]
        return hashes, np.searchsorted(starts, firsts, side="right") - 1


def sample_sentences(
    paths: Sequence[Path],
    rules: SentenceRules,
    transcripts: Iterable[str],
    limit: int,
    seed: int,
    workers: int = 1,
) -> tuple[list[str], SentenceCounts]:
    """At most `limit` sentences drawn evenly from the whole text, in the order of a seeded hash.

    Equal sentences have equal hashes: they are drawn, and later held out, together. Only about
    1.5 x limit sentences are in memory at a time. Raises CacheError for text that cannot be read.
    workers : processes that cut the text; how many changes nothing else
    """
    cutter = _Cutter(rules, TranscriptOverlap(transcripts, rules.overlap_words), seed)
    counts = SentenceCounts()
    sample: list[tuple[bytes, str]] = []
    ceiling = b"\xff" * 9  # above every hash until the sample is full
    for found, own in _each_cut(cutter, _paragraph_batches(paths), workers):
        counts.kept += own.kept
        counts.unspeakable += own.unspeakable
        counts.overlapping += own.overlapping
        sample += [entry for entry in found if entry[0] < ceiling]
        if len(sample) > limit + limit // 2:
            sample.sort()
            del sample[limit:]
            ceiling = sample[-1][0]
    sample.sort()
    return [sentence for _, sentence in sample[:limit]], counts


@dataclass(frozen=True, slots=True)
class _Cutter:
    """Paragraphs to the sentences that may be drawn, with their hashes; what a process is given."""

    rules: SentenceRules
    overlap: TranscriptOverlap
    seed: int

    def __call__(self, paragraphs: Sequence[str]) -> tuple[list[tuple[bytes, str]], SentenceCounts]:
        counts = SentenceCounts()
        cut = [piece for paragraph in paragraphs for piece in cut_paragraph(paragraph, self.rules, counts)]
        is_left_out = self.overlap.overlaps(cut)
        counts.overlapping = int(is_left_out.sum())
        counts.kept = len(cut) - counts.overlapping
        return [
            (sentence_hash(sentence, self.seed), sentence)
            for sentence, left_out in zip(cut, is_left_out, strict=True)
            if not left_out
        ], counts


_process_cutter: _Cutter | None = None  # of a process that cuts: sent once, not with every batch


def _keep_cutter(cutter: _Cutter) -> None:
    global _process_cutter
    _process_cutter = cutter


def _cut_here(paragraphs: Sequence[str]) -> tuple[list[tuple[bytes, str]], SentenceCounts]:
    assert _process_cutter is not None
    return _process_cutter(paragraphs)


def _each_cut(
    cutter: _Cutter, batches: Iterable[list[str]], workers: int
) -> Iterator[tuple[list[tuple[bytes, str]], SentenceCounts]]:
    """What the cutter makes of each batch, in order; few batches wait at a time, however long the text is."""
    if workers < 2:
        yield from map(cutter, batches)
        return
    context = get_context("forkserver")  # this process may hold threads and a GPU by now
    with ProcessPoolExecutor(workers, context, initializer=_keep_cutter, initargs=(cutter,)) as pool:
        waiting: deque[Future[tuple[list[tuple[bytes, str]], SentenceCounts]]] = deque()
        for batch in batches:
            waiting.append(pool.submit(_cut_here, batch))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def sentence_hash(sentence: str, seed: int, purpose: bytes = b"sample") -> bytes:
    """Eight bytes that decide what happens to a sentence: the same on every machine."""
    key = b"%s %d" % (purpose, seed)
    return hashlib.blake2b(sentence.encode(), digest_size=8, key=key).digest()


def is_held_out(sentence: str, fraction: float, seed: int) -> bool:
    """True for about `fraction` of all sentences, equal ones together."""
    return int.from_bytes(sentence_hash(sentence, seed, b"held out")) < fraction * 2**64


def _paragraph_batches(paths: Sequence[Path]) -> Iterator[list[str]]:
    """Lists of lines, with progress counted in bytes of the files as they lie on the disk."""
    for path in paths:
        if not path.is_file():
            raise CacheError(f"{path}: no such text; put it there, or name another under [teacher_training]")
    total_bytes = sum(path.stat().st_size for path in paths)
    with progress("reading text", total=total_bytes / MEGABYTE, unit="MB") as advance:
        for path in paths:
            with path.open("rb") as raw:
                before = 0
                for batch in _decoded_batches(path, raw):
                    yield batch
                    advance((raw.tell() - before) / MEGABYTE)
                    before = raw.tell()


def first_lines(path: Path, count: int) -> tuple[list[str], float]:
    """The first `count` lines of a text, and about what share of the file's bytes they take, 1 for all.

    Raises CacheError for text that cannot be read.
    """
    lines: list[str] = []
    with path.open("rb") as raw:
        for batch in _decoded_batches(path, raw):
            lines += batch
            if len(lines) >= count:
                return lines, raw.tell() / path.stat().st_size
    return lines, 1.0


def _decoded_batches(path: Path, raw: BinaryIO) -> Iterator[list[str]]:
    stream: Iterable[bytes] = raw
    if path.suffix == ".xz":
        stream = lzma.open(raw)
    elif path.suffix == ".gz":
        stream = gzip.open(raw)
    batch: list[str] = []
    try:
        for line in stream:
            batch.append(line.decode("utf-8"))
            if len(batch) == PARAGRAPHS_PER_BATCH:
                yield batch
                batch = []
    except (lzma.LZMAError, gzip.BadGzipFile, EOFError, UnicodeDecodeError) as error:
        raise CacheError(f"{path}: not readable as UTF-8 text ({error}); fetch the file again") from error
    yield batch
