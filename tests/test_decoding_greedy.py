"""Greedy CTC on paths written by hand."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from student.decoding.greedy import greedy_ctc_decode


def scores_of(*paths: list[int], num_units: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores whose best path is each given one; padding beyond it says unit 4."""
    longest = max(len(path) for path in paths)
    padded = torch.tensor([path + [4] * (longest - len(path)) for path in paths])
    return torch.nn.functional.one_hot(padded, num_units).float(), torch.tensor([len(p) for p in paths])


def test_repeats_merge_and_a_blank_between_them_keeps_both() -> None:
    assert greedy_ctc_decode(*scores_of([1, 1, 0, 1, 2, 2, 0, 3])) == [[1, 1, 2, 3]]


def test_all_blank_and_no_frames_decode_to_nothing() -> None:
    assert greedy_ctc_decode(*scores_of([0, 0, 0], [])) == [[], []]


def test_frames_beyond_the_length_are_not_heard() -> None:
    assert greedy_ctc_decode(*scores_of([1], [2, 2, 3, 0])) == [[1], [2, 3]]


@given(st.lists(st.lists(st.integers(0, 4), max_size=12), min_size=1, max_size=4))
def test_equals_merging_by_hand(paths: list[list[int]]) -> None:
    expected = []
    for path in paths:
        merged = [unit for index, unit in enumerate(path) if index == 0 or path[index - 1] != unit]
        expected.append([unit for unit in merged if unit != 0])
    if any(paths):
        assert greedy_ctc_decode(*scores_of(*paths)) == expected
