"""Word and character error rates by jiwer, with the counts that make them checkable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
