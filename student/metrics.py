"""Word and character error rates by jiwer, with the counts and alignments that make them checkable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import starmap, zip_longest
from typing import NamedTuple

import jiwer

from student.errors import StudentError


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """Error rates over a whole set: errors of all utterances over words (characters) of all references.

    substitutions, deletions, insertions, words : counts of words, so that wer is their ratio
    """

    wer: float
    cer: float
    substitutions: int
    deletions: int
    insertions: int
    words: int
    utterances: int


def count_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Errors of the hypotheses, in the order of their references; an empty hypothesis is all deletions.

    Raises StudentError where there is nothing to compare with, or the two differ in number.
    """
    _check_texts(references, hypotheses)
    words = jiwer.process_words(list(references), list(hypotheses))
    characters = jiwer.process_characters(list(references), list(hypotheses))
    return ErrorCounts(
        wer=float(words.wer),
        cer=float(characters.cer),
        substitutions=words.substitutions,
        deletions=words.deletions,
        insertions=words.insertions,
        words=words.hits + words.substitutions + words.deletions,
        utterances=len(references),
    )


class WordPair(NamedTuple):
    """A word of the reference beside what was recognised there; None where there is none."""

    reference: str | None
    hypothesis: str | None

    @property
    def operation(self) -> str:
        """ "" where both agree, else "S" (another word), "D" (left out) or "I" (put in)."""
        if self.reference is None:
            return "I"
        if self.hypothesis is None:
            return "D"
        return "" if self.reference == self.hypothesis else "S"


def align_words(references: Sequence[str], hypotheses: Sequence[str]) -> list[list[WordPair]]:
    """Both texts of each utterance word by word, with as few errors as there can be.

    Its errors are those of `count_errors`. Of alignments with equally few errors jiwer's choice stands.
    Raises StudentError where the two differ in number, or a reference is empty.
    """
    _check_texts(references, hypotheses)
    aligned = jiwer.process_words(list(references), list(hypotheses))
    rows = zip(aligned.alignments, aligned.references, aligned.hypotheses, strict=True)
    return [_pairs(chunks, reference, hypothesis) for chunks, reference, hypothesis in rows]


def _pairs(
    chunks: Sequence[jiwer.AlignmentChunk], reference: Sequence[str], hypothesis: Sequence[str]
) -> list[WordPair]:
    pairs = []
    for chunk in chunks:
        said = reference[chunk.ref_start_idx : chunk.ref_end_idx]
        heard = hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]
        pairs += list(starmap(WordPair, zip_longest(said, heard)))
    return pairs


def _check_texts(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    if not references:
        raise StudentError("no reference to compare with; evaluate a split that holds utterances")
    if len(references) != len(hypotheses):
        raise StudentError(
            f"{len(references)} references but {len(hypotheses)} hypotheses; one each is needed"
        )
    empty = next((index for index, text in enumerate(references) if not text.strip()), None)
    if empty is not None:
        raise StudentError(
            f"reference {empty + 1} of {len(references)} is empty; run `bert2ctc data prepare`"
        )
