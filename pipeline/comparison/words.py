"""Which words two configurations disagree on, and how each fares on rare words and homophones."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.comparison.differences import Interval, paired_interval
from pipeline.comparison.systems import SharedSplit, System
from pipeline.demo.grammar import HOMOPHONE_PAIRS
from pipeline.errors import PipelineError
from pipeline.files import FILES
from student.metrics import WordPair
from teacher_cache.settings import shown_value

RARE_COUNT = 5  # a word that stands at most so often in the training transcripts is rare
_FEWEST_SPEAKERS = 2

Homophones = Mapping[str, tuple[str, ...]]
"""Word -> the others that sound like it."""


@dataclass(slots=True)
class WordRecord:
    """One word of the references.

    count : how often it was said     better, worse : how often ours alone, and the other alone, had it right,
        on average over seeds     wrong : by ours and by the other     heard : what either wrote instead
    training_count : in the training transcripts, None where they are not at hand
    """

    word: str
    count: int = 0
    better: float = 0.0
    worse: float = 0.0
    wrong: list[float] = field(default_factory=lambda: [0.0, 0.0])
    heard: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))
    training_count: int | None = None
    homophones: tuple[str, ...] = ()

    @property
    def is_rare(self) -> bool:
        """Whether training heard it RARE_COUNT times at most."""
        return self.training_count is not None and self.training_count <= RARE_COUNT


@dataclass(frozen=True, slots=True)
class WordGroup:
    """Words of one kind: their number, shares of them that ours and the other did not recognise, difference.

    interval : of the difference, 95 %, speakers drawn (utterances where there are no speakers)
    """

    name: str
    words: int
    ours: float
    minus: float
    interval: Interval


def demo_homophones() -> Homophones:
    """Those of the demo's grammar."""
    return {word: (other,) for pair in HOMOPHONE_PAIRS for word, other in (pair, pair[::-1])}


def read_homophones(path: Path) -> Homophones:
    """Of a list: words of one line sound alike. Raises PipelineError for a line of one word."""
    found: dict[str, tuple[str, ...]] = {}
    advice = "write words that sound alike into one line, spaces between"
    for number, line in FILES.lines(path, advice):
        words = line.lower().split()
        if len(words) == 1:
            raise PipelineError(f"{path}: line {number} holds one word, {shown_value(words[0])}; {advice}")
        for word in words:
            others = (other for other in words if other != word)
            found[word] = tuple(dict.fromkeys((*found.get(word, ()), *others)))
    return found


def word_records(
    ours: System, minus: System, training_counts: Mapping[str, int], homophones: Homophones
) -> list[WordRecord]:
    """Every word on which the two disagree, most disagreed on first, then alphabetically."""
    found: dict[str, WordRecord] = {}
    sides = (ours, minus)
    for rows in zip(*(zip(*side.alignments, strict=True) for side in sides), strict=True):
        by_side = [[_spoken(pairs) for pairs in row] for row in rows]
        for place, (word, _) in enumerate(by_side[0][0]):
            record = found.setdefault(word, WordRecord(word))
            record.count += 1
            shares = []
            for side, runs in enumerate(by_side):
                heard = [run[place][1] for run in runs]
                wrong = [text for text in heard if text != word]
                record.wrong[side] += len(wrong) / len(runs)
                record.heard[side].update(text or "" for text in wrong)
                shares.append(1 - len(wrong) / len(runs))
            record.better += max(0.0, shares[0] - shares[1])
            record.worse += max(0.0, shares[1] - shares[0])
    for record in found.values():
        record.training_count = training_counts.get(record.word) if training_counts else None
        record.homophones = tuple(homophones.get(record.word, ()))
    disagreed = [record for record in found.values() if record.better or record.worse]
    return sorted(disagreed, key=lambda record: (-(record.better + record.worse), record.word))


def word_groups(
    ours: System,
    minus: System,
    test_set: SharedSplit,
    training_counts: Mapping[str, int],
    homophones: Homophones,
) -> list[WordGroup]:
    """How both fare on rare words, on homophones, and on words that are neither, where there are such."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for word in {word for text in test_set.references for word in text.split()}:
        is_rare = bool(training_counts) and training_counts.get(word, 0) <= RARE_COUNT
        if is_rare:
            kinds["rare"].add(word)
        if word in homophones:
            kinds["homophones"].add(word)
        if not is_rare and word not in homophones:
            kinds["others"].add(word)
    blocks = test_set.speakers if test_set.num_speakers >= _FEWEST_SPEAKERS else test_set.ids
    found = []
    for name in ("rare", "homophones", "others"):
        chosen = kinds[name]
        counts = np.array([sum(word in chosen for word in text.split()) for text in test_set.references])
        if len(kinds) > 1 and counts.any():
            wrong = [_wrong_words(side, chosen) for side in (ours, minus)]
            rates = [float(of_side.sum() / len(of_side) / counts.sum()) for of_side in wrong]
            bounds = paired_interval(wrong[0], wrong[1], counts, blocks)
            found.append(WordGroup(name, int(counts.sum()), rates[0], rates[1], bounds))
    return found


def _wrong_words(system: System, chosen: set[str]) -> np.ndarray:
    """int64 (runs, U): words among the chosen that were not recognised."""
    return np.array(
        [
            [sum(pair.reference in chosen and pair.operation != "" for pair in pairs) for pairs in rows]
            for rows in system.alignments
        ]
    )


def _spoken(pairs: Sequence[WordPair]) -> list[tuple[str, str | None]]:
    """Each word of the reference and what stands there."""
    return [(pair.reference, pair.hypothesis) for pair in pairs if pair.reference is not None]
