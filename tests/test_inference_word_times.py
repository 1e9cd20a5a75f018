"""Spikes at known frames give those times; confidence equals its formula, 1 for certain and 0 for uniform."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from student.data.units import Units, train_units
from student.decoding.greedy import greedy_ctc_decode
from student.inference.confidence import EXPONENT, frame_confidence
from student.inference.word_times import frame_words, unit_spans


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Units:
    texts = ["the red ship", "a flower", "the blue ship sank", "red red flower"]
    return train_units(texts, tmp_path_factory.mktemp("units") / "a.model", 24)[0]


def slow_confidence(probabilities: list[float], exponent: float) -> float:
    """Tsallis entropy over its largest value, as the paper has both."""
    entropy = (1 - sum(p**exponent for p in probabilities)) / (exponent - 1)
    size = len(probabilities)
    return 1 - entropy / ((1 - sum((1 / size) ** exponent for _ in range(size))) / (exponent - 1))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=2, max_size=40), st.sampled_from([EXPONENT, 0.5, 2.0]))
def test_confidence_is_the_formula_s(logits: list[float], exponent: float) -> None:
    log_probs = torch.tensor(logits, dtype=torch.float64).log_softmax(0)
    expected = slow_confidence([math.exp(one) for one in log_probs.tolist()], exponent)
    assert frame_confidence(log_probs[None], exponent).tolist() == pytest.approx([expected], abs=1e-5)


@pytest.mark.parametrize("size", [2, 31, 501])
def test_certain_frames_have_1_and_uniform_ones_0(size: int) -> None:
    certain = torch.full((size,), -math.inf).index_fill(0, torch.tensor([1]), 0.0)
    uniform = torch.full((size,), -math.log(size))
    assert frame_confidence(torch.stack([certain, uniform])).tolist() == pytest.approx([1.0, 0.0], abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_spikes_at_known_frames_give_the_times_and_the_least_confidence(units: Units, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=random))

    frames, expected = [0] * number(0, 4), []
    for word in ["the", "red", "red", "ship", "flower"][: number(1, 6)]:
        first = len(frames)
        for unit in units.encode(word):
            frames += [unit] * number(1, 3)
            end = len(frames)
            frames += [0] * number(1, 4)
        expected.append((word, first, end))
    ids = torch.tensor(frames)
    noise = torch.rand(len(frames), units.size, generator=random)
    log_probs = (noise + 6 * torch.nn.functional.one_hot(ids, units.size)).log_softmax(-1)
    decoded = greedy_ctc_decode(log_probs[None], torch.tensor([len(frames)]))[0]
    found = frame_words(log_probs, decoded, units)
    assert [(word.text, word.first_frame, word.end_frame) for word in found] == expected
    for word in found:
        said = [frame for frame in range(word.first_frame, word.end_frame) if frames[frame]]
        slow = min(slow_confidence(log_probs[frame].exp().tolist(), EXPONENT) for frame in said)
        assert word.confidence == pytest.approx(slow, abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_the_alignment_of_the_greedy_units_is_the_greedy_path(seed: int) -> None:
    log_probs = (3 * torch.randn(30, 5, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)
    best = log_probs.argmax(-1).tolist()
    runs = [0, *(at for at, (one, other) in enumerate(pairwise(best), 1) if one != other), len(best)]
    expected = [(start, end) for start, end in pairwise(runs) if best[start]]
    decoded = greedy_ctc_decode(log_probs[None], torch.tensor([30]))[0]
    assert (unit_spans(log_probs, decoded) if decoded else []) == expected


def test_no_units_are_no_words(units: Units, tmp_path: Path) -> None:
    assert frame_words(torch.zeros(0, units.size), [], units) == []
