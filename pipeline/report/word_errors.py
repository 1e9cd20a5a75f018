"""How far a word error rate may be trusted: its interval over speakers, from an evaluated run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import jiwer
import numpy as np

from pipeline.errors import PipelineError
from pipeline.intervals import bootstrap_ratios, interval
from pipeline.transcripts import read_trn
from student.data.manifest import Utterance


def wer_interval(run: Path, split: str, utterances: Sequence[Utterance]) -> tuple[float, float]:
    """The 95 % interval of a split's WER; speakers are drawn, utterances where the manifest knows none.

    Reads `<run>/evaluation/<split>.hyp.trn`. Raises PipelineError where it is of other utterances.
    """
    path = run / "evaluation" / f"{split}.hyp.trn"
    written = read_trn(path)
    missing = [utterance.id for utterance in utterances if utterance.id not in written]
    if missing:
        raise PipelineError(
            f"{path}: holds no {missing[0]}; measure it again with "
            f"`bert2ctc evaluate {shlex.quote(str(run))} --split {shlex.quote(split)}`"
        )
    counted = [jiwer.process_words(utterance.text, written[utterance.id]) for utterance in utterances]
    errors = [each.substitutions + each.deletions + each.insertions for each in counted]
    words = [len(utterance.text.split()) for utterance in utterances]
    blocks = [utterance.speaker or utterance.chapter or utterance.id for utterance in utterances]
    return interval(bootstrap_ratios(np.array([errors]), np.array([words]), blocks)[:, 0])
