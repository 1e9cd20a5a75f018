"""Sentences as a student's units: what a language model over units is estimated on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.errors import PipelineError
from pipeline.language_model.ngram_model import UNKNOWN
from student.data.units import Units
from teacher_cache.common.progress import progress

SENTENCES_BETWEEN_PROGRESS = 10_000


def unit_ids(sentences: Sequence[str], units: Units) -> list[list[int]]:
    """Each sentence as unit ids, but for those with a character that the units lack: a student never says it.

    Raises PipelineError where none is left.
    """
    unknown = units.pieces.index(UNKNOWN) if UNKNOWN in units.pieces else -1
    spelt = []
    with progress("cutting into units", total=len(sentences), unit="sentences") as advance:
        for number, sentence in enumerate(sentences, 1):
            ids = units.encode(sentence)
            if unknown not in ids:
                spelt.append(ids)
            if number % SENTENCES_BETWEEN_PROGRESS == 0:
                advance(SENTENCES_BETWEEN_PROGRESS)
        advance(len(sentences) % SENTENCES_BETWEEN_PROGRESS)
    if not spelt:
        raise PipelineError(
            f"none of {len(sentences):,} sentences can be written in the student's units; name other text "
            "under [language_model]"
        )
    return spelt


def as_pieces(spelt: Iterable[Sequence[int]], units: Units) -> Iterable[list[str]]:
    """Unit ids as pieces, which are an n-gram model's words."""
    pieces = units.pieces
    return ([pieces[unit] for unit in ids] for ids in spelt)


def known_pieces(units: Units) -> list[str]:
    """All pieces that a sentence may hold."""
    return [piece for piece in units.pieces[1:] if piece != UNKNOWN]
