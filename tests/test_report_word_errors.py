"""The interval of a WER: speakers are drawn, so that what one of them said stays together."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.report.word_errors import wer_interval
from student.data.manifest import Utterance


def evaluated(run: Path, wrong: set[int], count: int = 40) -> list[Utterance]:
    """Utterances of four words by speakers of ten utterances; the whole of the wrong ones is misheard."""
    utterances = [
        Utterance(id=f"{n // 10}-0-{n}", audio="", text="a b c d", seconds=1.0, speaker=str(n // 10))
        for n in range(count)
    ]
    lines = [f"{'x y z w' if n in wrong else 'a b c d'} ({u.id})\n" for n, u in enumerate(utterances)]
    (run / "evaluation").mkdir(parents=True, exist_ok=True)
    (run / "evaluation" / "test.hyp.trn").write_text("".join(lines), encoding="utf-8")
    return utterances


def test_an_interval_holds_the_rate_and_errors_of_one_speaker_widen_it(tmp_path: Path) -> None:
    spread = evaluated(tmp_path / "spread", set(range(0, 40, 4)))  # 2 or 3 of each speaker's ten
    gathered = evaluated(tmp_path / "gathered", set(range(10)))  # all of one speaker
    narrow = wer_interval(tmp_path / "spread", "test", spread)
    wide = wer_interval(tmp_path / "gathered", "test", gathered)
    assert narrow[0] <= 0.25 <= narrow[1] and wide[0] <= 0.25 <= wide[1]
    assert wide[1] - wide[0] > 5 * (narrow[1] - narrow[0])


def test_transcripts_of_another_split_are_refused(tmp_path: Path) -> None:
    evaluated(tmp_path, set())
    others = [Utterance(id="9-9-9", audio="", text="a", seconds=1.0)]
    with pytest.raises(PipelineError, match="holds no 9-9-9"):
        wer_interval(tmp_path, "test", others)
