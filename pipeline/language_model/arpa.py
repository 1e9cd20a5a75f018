"""ARPA files, anybody's, plain or gzipped: read line by line, and any fault is one line with its number."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from pipeline.files import FILES
from pipeline.language_model.ngram_model import NgramModel, NgramOrder
from teacher_cache.common.progress import Advance, progress
from teacher_cache.common.sizes import MEGABYTE
from teacher_cache.common.small_files import MAX_LINE_BYTES, open_regular
from teacher_cache.common.typed import Fault
from teacher_cache.settings import shown_value

ADVICE = "give a whole ARPA file, or estimate one with `bert2ctc lm ngram`"
LINES_BETWEEN_PROGRESS = 100_000
_COUNT = re.compile(r"ngram\s+(\d{1,2})\s*=\s*(\d{1,12})")
_SECTION = re.compile(r"\\(\d{1,2})-grams:")
_FIELDS = re.compile(r"[ \t]+")  # other white space may be part of a word
_LONGEST = 20  # words of an n-gram


def read_arpa(path: Path) -> NgramModel:
    """The model of an ARPA file, its n-grams in the file's order.

    Raises PipelineError for a file that is cut short or whose counts do not match, for a number that is none
    or no log-probability, a word or n-gram twice, a history that is not there, and what is not UTF-8.
    """
    with FILES.faults_told(path, ADVICE), _lines(path) as lines:
        counts = _counts(lines)
        words: dict[str, int] = {}
        orders: list[NgramOrder] = []
        keys: list[_Keys] = []
        for length, count in enumerate(counts, 1):
            orders.append(_read_order(lines, length, count, len(counts), words, keys))
        _expect_end(lines)
    return NgramModel(tuple(words), tuple(orders))


@dataclass(slots=True)
class _Lines:
    """Lines that are not blank, and the number of the last one."""

    source: Iterator[bytes]
    number: int = 0
    pushed_back: list[str] = field(default_factory=list)

    def next(self) -> str | None:
        """The next line without spaces around it, None at the end. Raises Fault."""
        if self.pushed_back:
            return self.pushed_back.pop()
        for raw in self.source:
            self.number += 1
            if len(raw) > MAX_LINE_BYTES:
                raise self.fault(f"is longer than {MAX_LINE_BYTES:,} bytes")
            try:
                line = raw.decode("utf-8").strip(" \t\r\n")
            except UnicodeDecodeError as error:
                raise self.fault(f"is not UTF-8 (byte {raw[error.start]:#04x})") from None
            if line:
                return line
        return None

    def fault(self, what: str) -> Fault:
        """A fault of the last line."""
        return Fault(f"line {self.number} {what}")


@contextmanager
def _lines(path: Path) -> Iterator[_Lines]:
    with open_regular(path) as raw:
        raw.seek(0, 2)
        size = raw.tell()
        raw.seek(0)
        with progress(f"reading {path.name}", total=size / MEGABYTE, unit="MB") as advance:
            stream: Any = gzip.open(raw) if path.suffix == ".gz" else raw
            try:
                yield _Lines(_raw_lines(stream, raw, advance))
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise Fault(f"is no whole gzip file ({error})") from None


def _raw_lines(stream: IO[bytes], raw: IO[bytes], advance: Advance) -> Iterator[bytes]:
    before = count = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        yield line
        count += 1
        if count % LINES_BETWEEN_PROGRESS == 0:
            advance((raw.tell() - before) / MEGABYTE)
            before = raw.tell()


def _counts(lines: _Lines) -> list[int]:
    """How many n-grams of each length the head promises."""
    line = lines.next()
    while line is not None and line != "\\data\\":  # anything may stand before
        line = lines.next()
    if line is None:
        raise Fault("has no line \\data\\: it is no ARPA file")
    counts: list[int] = []
    while (line := lines.next()) is not None and (found := _COUNT.fullmatch(line)):
        length, count = int(found[1]), int(found[2])
        if length != len(counts) + 1 or length > _LONGEST:
            raise lines.fault(f"counts {length}-grams where {len(counts) + 1}-grams are to follow")
        counts.append(count)
    if not counts or not counts[0]:
        raise lines.fault("comes before any word is counted")
    if line is not None:
        lines.pushed_back.append(line)
    return counts


@dataclass(frozen=True, slots=True)
class _Keys:
    """Packed (history, word) of the entries of one order: sorted, and whose they are."""

    sorted: np.ndarray
    entry: np.ndarray

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The entry of each key, int64, -1 where there is none."""
        if not len(self.sorted):
            return np.full(len(keys), -1)
        place = np.searchsorted(self.sorted, keys).clip(max=len(self.sorted) - 1)
        return np.where(self.sorted[place] == keys, self.entry[place], -1)


def _read_order(
    lines: _Lines, length: int, count: int, longest: int, words: dict[str, int], keys: list[_Keys]
) -> NgramOrder:
    """One section; words are told their ids by the first, `keys` gains the section's own."""
    line = lines.next()
    found = _SECTION.fullmatch(line or "")
    if line is None or not found or int(found[1]) != length:
        raise lines.fault(f"{shown_value(line or 'the end')} stands where \\{length}-grams: is expected")
    first_line = lines.number
    ids, log_probs, backoffs, numbers = array("i"), array("f"), array("f"), array("q")
    while (line := lines.next()) is not None and not line.startswith("\\"):
        fields = _FIELDS.split(line)
        has_backoff = len(fields) == length + 2
        if len(fields) != length + 1 and not (has_backoff and length < longest):
            raise lines.fault(f"has {len(fields)} fields: a {length}-gram has a number and {length} words")
        log_probs.append(_number(lines, fields[0], 0.0))
        backoffs.append(_number(lines, fields[-1], math.inf) if has_backoff else 0.0)
        numbers.append(lines.number)
        if length == 1:
            if words.setdefault(fields[1], len(words)) != len(words) - 1 or len(words) != len(log_probs):
                raise lines.fault(f"holds the word {shown_value(fields[1])} a second time")
            ids.append(len(words) - 1)
            continue
        for word in fields[1 : length + 1]:
            if word not in words:
                raise lines.fault(f"holds {shown_value(word)}, which is no word of \\1-grams:")
            ids.append(words[word])
    if line is not None:
        lines.pushed_back.append(line)
    if len(log_probs) != count:
        raise Fault(
            f"holds {len(log_probs):,} {length}-grams from line {first_line} on; its head says {count:,}"
        )
    table = np.frombuffer(ids, dtype=np.int32).reshape(-1, length) if ids else np.zeros((0, length), np.int32)
    context: np.ndarray = np.zeros(count, dtype=np.int64)
    for place in range(length - 1):  # from the first word on, one word more each time
        context = table[:, place] if not place else keys[place].find(context * len(words) + table[:, place])
        context = context.astype(np.int64)
        if len(missing := np.flatnonzero(context < 0)):
            entry = int(missing[0])
            history = " ".join(list(words)[word] for word in table[entry, : place + 1])
            raise Fault(
                f"line {numbers[entry]} follows {shown_value(history)}, which is no {place + 1}-gram of "
                "the file: its back-off weight is missing"
            )
    packed = context * len(words) + table[:, -1]
    order = np.argsort(packed, kind="stable")
    twice = np.flatnonzero(packed[order][1:] == packed[order][:-1])
    if len(twice):
        raise Fault(f"line {numbers[int(order[twice[0] + 1])]} holds an n-gram a second time")
    keys.append(_Keys(packed[order], order))
    return NgramOrder(
        context.astype(np.int32),
        table[:, -1].copy(),
        np.array(log_probs, dtype=np.float32),
        np.array(backoffs, dtype=np.float32),
    )


def _number(lines: _Lines, text: str, most: float) -> float:
    """A log10, -inf allowed, at most `most`."""
    try:
        value = float(text)
    except ValueError:
        raise lines.fault(f"holds {shown_value(text)} where a number is expected") from None
    if math.isnan(value) or value > most or value == math.inf:
        limit = f", at most {most:g}" if most < math.inf else ""
        raise lines.fault(f"holds {shown_value(text)}, which is no log-probability{limit}")
    return value


def _expect_end(lines: _Lines) -> None:
    if lines.next() != "\\end\\":
        raise lines.fault("stands where \\end\\ is expected: the file is cut short, or has more than it says")
