"""Error rates against counts made by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from student.errors import StudentError
from student.metrics import count_errors

WORD = st.text("abc", min_size=1, max_size=3)
SENTENCE = st.lists(WORD, min_size=1, max_size=6).map(" ".join)


def test_counts_and_rates_of_a_known_pair() -> None:
    counts = count_errors(["the old ship sails", "night falls"], ["the cold ship", "night falls dark"])
    assert (counts.substitutions, counts.deletions, counts.insertions) == (1, 1, 1)
    assert (counts.words, counts.utterances) == (6, 2)
    assert counts.wer == pytest.approx(3 / 6)
    assert counts.cer == pytest.approx(
        (1 + len(" sails") + len(" dark")) / len("the old ship sailsnight falls")
    )


def test_an_empty_hypothesis_is_all_deletions() -> None:
    counts = count_errors(["a b c"], [""])
    assert (counts.deletions, counts.wer, counts.cer) == (3, 1.0, 1.0)


def test_the_rate_pools_the_corpus_and_is_no_mean_of_rates() -> None:
    assert count_errors(["a", "a b c d e f g h i"], ["b", "a b c d e f g h i"]).wer == pytest.approx(0.1)


@given(st.lists(SENTENCE, min_size=1, max_size=4))
def test_equal_texts_have_no_errors(references: list[str]) -> None:
    counts = count_errors(references, references)
    assert (counts.wer, counts.cer) == (0, 0)


@given(st.lists(st.tuples(SENTENCE, SENTENCE | st.just("")), min_size=1, max_size=4))
def test_wer_is_the_ratio_of_its_counts(pairs: list[tuple[str, str]]) -> None:
    counts = count_errors([left for left, _ in pairs], [right for _, right in pairs])
    errors = counts.substitutions + counts.deletions + counts.insertions
    assert counts.words == sum(len(left.split()) for left, _ in pairs)
    assert counts.wer == pytest.approx(errors / counts.words)


@pytest.mark.parametrize("references, hypotheses", [([], []), (["a"], []), (["a", " "], ["a", "b"])])
def test_nothing_to_compare_with_is_an_error(references: list[str], hypotheses: list[str]) -> None:
    with pytest.raises(StudentError):
        count_errors(references, hypotheses)
