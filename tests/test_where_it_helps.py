"""Words by what the teacher knew: whose word a piece is, what was heard around it, and who is better."""

from __future__ import annotations

import click
import numpy as np
import pytest
import where_it_helps

from teacher_cache.passages import Passage
from teacher_cache.store.inspection import InspectedPassage, InspectedToken


def passage(text: str, **pieces: float) -> InspectedPassage:
    tokens = tuple(InspectedToken(piece, probability, None, (), 0.0) for piece, probability in pieces.items())
    return InspectedPassage("one", Passage("", text, ""), tokens)


def test_a_words_probability_is_its_pieces_product() -> None:
    words = ["don't", "walking", "on"]
    inspected = passage(
        " ".join(words), **{"don": 0.5, "'": 0.5, "t": 0.8, "walk": 0.1, "##ing": 0.5, "on": 1}
    )
    assert where_it_helps.word_probabilities(inspected, words) == pytest.approx([0.2, 0.05, 1.0])


def test_pieces_of_another_text_are_refused() -> None:
    with pytest.raises(click.ClickException, match="spell 'seat' where the transcript has 'sea'"):
        where_it_helps.word_probabilities(passage("sea", seat=0.5), ["sea"])


def test_neighbours_are_two_on_either_side_and_an_utterances_ends_harm_nobody() -> None:
    assert where_it_helps.neighbours_heard([True]) == [4]
    assert where_it_helps.neighbours_heard([False, True, True, True]) == [4, 3, 3, 4]
    assert where_it_helps.neighbours_heard([False] * 5) == [2, 1, 0, 1, 2]


def test_rows_part_the_words_and_their_differences_are_the_runs_own() -> None:
    random = np.random.default_rng(1)
    probabilities, neighbours = random.random(400) ** 6, random.integers(0, 5, 400)
    speakers = [f"speaker {at % 7}" for at in range(400)]
    ours, theirs = (random.random((2, 400)) < rate for rate in (0.3, 0.5))
    wrong = np.concatenate([ours, theirs]).astype(float)
    found = where_it_helps.rows(probabilities, neighbours, wrong, speakers, (slice(0, 2), slice(2, None)))
    by_name = {row["words"]: row for row in found}
    assert by_name["all"]["difference"] == pytest.approx(ours.mean() - theirs.mean())
    for parts in ("teacher 0", "neighbours heard"):
        of_part = [row for name, row in by_name.items() if parts in name and "above" not in name]
        assert sum(row["number"] for row in of_part) == 400
        weighted = sum(row["number"] * row.get("difference", 0.0) for row in of_part)
        assert weighted / 400 == pytest.approx(by_name["all"]["difference"])
    swapped = where_it_helps.rows(probabilities, neighbours, wrong, speakers, (slice(2, None), slice(0, 2)))
    assert swapped[0]["difference"] == pytest.approx(-found[0]["difference"])
    low, high = found[0]["interval"]
    assert low < found[0]["difference"] < high < 0
