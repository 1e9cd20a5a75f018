"""A split's word errors utterance by utterance, and to whom each belongs: what its intervals are made of."""

from __future__ import annotations

from collections.abc import Sequence

import jiwer
import numpy as np

from pipeline.error_rates.paired import Counted, Counts
from pipeline.error_rates.transcripts import Transcripts
from pipeline.errors import PipelineError
from student.data.manifest import Utterance


def word_counts(transcripts: Transcripts, utterances: Sequence[Utterance], advice: str) -> Counts:
    """("wer",) alone; blocks are `blocks_of`'s.

    Raises PipelineError, with the advice, where the transcripts are of other utterances.
    """
    missing = [utterance.id for utterance in utterances if utterance.id not in transcripts.hypotheses]
    if missing:
        raise PipelineError(f"{len(missing)} utterances were not evaluated, {missing[0]} first; {advice}")
    counted = [jiwer.process_words(one.text, transcripts.hypotheses[one.id]) for one in utterances]
    errors = [each.substitutions + each.deletions + each.insertions for each in counted]
    words = [len(utterance.text.split()) for utterance in utterances]
    return {("wer",): Counted(np.array(errors), np.array(words), blocks_of(utterances))}


def blocks_of(utterances: Sequence[Utterance]) -> list[str]:
    """What each belongs to: its speaker, else its chapter, itself where the manifest knows neither."""
    return [utterance.speaker or utterance.chapter or utterance.id for utterance in utterances]
