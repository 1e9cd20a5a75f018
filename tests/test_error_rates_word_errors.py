"""The interval of a WER: speakers are drawn, so that what one of them said stays together."""

from __future__ import annotations

import pytest

from pipeline.error_rates.intervals import bootstrap_ratios, interval
from pipeline.error_rates.transcripts import Transcripts
from pipeline.error_rates.word_errors import word_counts
from pipeline.errors import PipelineError
from student.data.manifest import Utterance


def evaluated(wrong: set[int], count: int = 40) -> tuple[Transcripts, list[Utterance]]:
    """Utterances of four words by speakers of ten utterances; the whole of the wrong ones is misheard."""
    utterances = [
        Utterance(id=f"{n // 10}-0-{n}", audio="", text="a b c d", seconds=1.0, speaker=str(n // 10))
        for n in range(count)
    ]
    heard = {u.id: "x y z w" if n in wrong else "a b c d" for n, u in enumerate(utterances)}
    return Transcripts({u.id: u.text for u in utterances}, heard), utterances


def bounds(wrong: set[int]) -> tuple[float, float]:
    return interval(bootstrap_ratios(*word_counts(*evaluated(wrong), "")["wer",])[:, 0])


def test_an_interval_holds_the_rate_and_errors_of_one_speaker_widen_it() -> None:
    narrow = bounds(set(range(0, 40, 4)))  # 2 or 3 of each speaker's ten
    wide = bounds(set(range(10)))  # all of one speaker
    assert narrow[0] <= 0.25 <= narrow[1] and wide[0] <= 0.25 <= wide[1]
    assert wide[1] - wide[0] > 5 * (narrow[1] - narrow[0])


def test_transcripts_of_another_split_are_refused() -> None:
    transcripts, _ = evaluated(set())
    others = [Utterance(id="9-9-9", audio="", text="a", seconds=1.0)]
    with pytest.raises(PipelineError, match="9-9-9 first; evaluate it"):
        word_counts(transcripts, others, "evaluate it")
