"""The matched-pairs test: sctk's figures on real hypotheses, and its state machine written out again."""

from __future__ import annotations

import json
import math
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.comparison.matched_pairs import holm, matched_pairs, segment_errors
from pipeline.error_rates.transcripts import read_trn
from student.metrics import WordPair, align_words

ROOT = Path(__file__).parents[1]
SCTK = ROOT / "tests" / "references" / "sctk"
SYSTEMS = ("ctc", "interaed_hard", "interaed_kd")
ERRORS = {"S": "substitutions", "D": "deletions", "I": "insertions"}


@cache
def reference_scores() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SCTK / "scores.json").read_text(encoding="utf-8"))
    return found


@cache
def aligned(system: str) -> dict[str, list[WordPair]]:
    said = read_trn(SCTK / "test.ref.trn")
    path = ROOT / f"docs/results/2026-11-26-fair-demo/one-letter-pairs-{system}-seed-1.json"
    heard = json.loads(path.read_text(encoding="utf-8"))["hypotheses"]["test"]
    assert heard.keys() == said.keys()
    return dict(zip(said, align_words(list(said.values()), [heard[one] for one in said]), strict=True))


@pytest.mark.parametrize("system", SYSTEMS)
def test_our_alignments_count_for_each_speaker_what_sclite_counts(system: str) -> None:
    speakers = reference_scores()["sclite"][system]
    assert len(speakers) == 12
    for speaker, expected in speakers.items():
        own = [pairs for name, pairs in aligned(system).items() if name.startswith(f"{speaker}-")]
        words = sum(pair.reference is not None for pairs in own for pair in pairs)
        assert (len(own), words) == (expected["utterances"], expected["words"])
        found = "".join(pair.operation for pairs in own for pair in pairs)
        for letter, name in ERRORS.items():
            # sclite prints one decimal, and breaks ties between equally short alignments its own way
            assert 100 * found.count(letter) / words == pytest.approx(expected["percent"][name], abs=0.2)
        assert 100 * len(found) / words == pytest.approx(expected["percent"]["errors"], abs=0.0501)


@pytest.mark.parametrize("pair", list(combinations(SYSTEMS, 2)), ids="-".join)
def test_segments_means_and_p_are_sctk_s(pair: tuple[str, str]) -> None:
    expected = next(one for one in reference_scores()["mapsswe"] if one["systems"] == list(pair))
    systems = [list(aligned(system).values()) for system in pair]
    found = matched_pairs(systems[:1], systems[1:])
    assert segment_errors(systems).sum(axis=1).tolist() == expected["errors"]
    assert found.segments == expected["segments"]
    assert found.mean == pytest.approx(expected["mean"], abs=5.1e-4)
    assert found.deviation == pytest.approx(expected["deviation"], abs=5.1e-4)
    z = found.mean / found.deviation * math.sqrt(found.segments)
    assert z == pytest.approx(expected["z"], abs=5.1e-4)
    assert found.p is not None
    if expected["p"].startswith("<"):
        assert found.p < float(expected["p"][1:])
    else:
        assert found.p == pytest.approx(float(expected["p"]), abs=5.1e-4)


def segments_by_hand(systems: list[list[WordPair]]) -> list[list[int]]:
    """Word by word, as Gillick and Cox describe it: two words in a row that all have right end a segment."""
    places: list[tuple[str, list[int]]] = []  # ("gap" | "word", errors by system), in the order of speech
    num_words = sum(pair.reference is not None for pair in systems[0])
    counts = [[[0, 0] for _ in range(num_words + 1)] for _ in systems]  # put in before it, wrong itself
    for own, pairs in zip(counts, systems, strict=True):
        word = 0
        for pair in pairs:
            if pair.reference is None:
                own[word][0] += 1
            else:
                own[word][1] += pair.reference != pair.hypothesis
                word += 1
    for word in range(num_words + 1):
        places.append(("gap", [own[word][0] for own in counts]))
        if word < num_words:
            places.append(("word", [own[word][1] for own in counts]))
    segments, current, right = [], [0] * len(systems), 0
    for kind, errors in places:
        if any(errors):
            current = [sum(both) for both in zip(current, errors, strict=True)]
            right = 0
        elif kind == "word":
            right += 1
            if right >= 2 and any(current):
                segments.append(current)
                current = [0] * len(systems)
    return [*segments, current] if any(current) else segments


LETTERS = st.lists(st.sampled_from("abc"), max_size=8).map(" ".join)


@given(LETTERS.filter(bool), st.lists(LETTERS, min_size=2, max_size=3))
def test_segments_are_those_found_word_by_word(reference: str, heard: list[str]) -> None:
    systems = [align_words([reference], [text]) for text in heard]
    expected = segments_by_hand([system[0] for system in systems])
    assert segment_errors(systems).T.tolist() == expected


def test_seeds_enter_by_their_mean() -> None:
    """Two seeds that both err as one system does test as that system, at joint boundaries."""
    said = ["a b c d e f"] * 60
    good, bad = align_words(said, said), align_words(said, ["a b x d e f"] * 40 + said[:20])
    alone, doubled = matched_pairs([bad], [good]), matched_pairs([bad, bad], [good, good])
    assert alone == doubled and alone.segments == 40 and alone.p is None
    mixed = matched_pairs([bad, good], [good])
    assert mixed.mean == pytest.approx(0.5)


def test_few_segments_have_no_p() -> None:
    said = ["a b c"] * 49
    assert matched_pairs([align_words(said, ["a b"] * 49)], [align_words(said, said)]).p is None
    assert matched_pairs([align_words(said, said)], [align_words(said, said)]).segments == 0


def test_p_falls_evenly_where_the_systems_are_equal() -> None:
    """Of two students that err alike by chance, one test in twenty is below 0.05."""
    generator, below, trials = np.random.default_rng(3), 0, 200
    for _ in range(trials):
        wrong = generator.random((2, 150, 4)) < 0.15
        systems = [[[WordPair("a", "x" if error else "a") for error in row] for row in own] for own in wrong]
        p = matched_pairs([systems[0]], [systems[1]]).p
        below += p is not None and p < 0.05
    assert 0.01 <= below / trials <= 0.10


def test_holm_raises_the_smallest_most_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, None, 0.9]) == [1.0, None, 1.0]
    assert holm([0.02]) == [0.02] and holm([]) == []
