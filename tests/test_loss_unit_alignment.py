"""When each unit was spoken: posteriors of every path, against an enumeration of all of them."""

from __future__ import annotations

from itertools import groupby, product

import pytest
import torch
from torchaudio.functional import forced_align

from student.loss.unit_alignment import UnitFrames, scaled_to, unit_frames, windows


def brute_force(log_probs: torch.Tensor, units: list[int]) -> list[int]:
    """The likeliest frame of each unit by listing every path that collapses to the units."""
    num_frames, num_units = log_probs.shape
    runs = torch.tensor([0, *(int(a != b) for a, b in zip(units, units[1:], strict=False))]).cumsum(0)
    mass = torch.zeros(int(runs[-1]) + 1, num_frames, dtype=torch.float64)
    for path in product(range(num_units), repeat=num_frames):
        if [unit for unit, _ in groupby(path) if unit] != units:
            continue
        probability = log_probs[range(num_frames), list(path)].double().sum().exp()
        position = -1
        for frame, unit in enumerate(path):
            position += bool(unit) and (frame == 0 or path[frame - 1] != unit)
            if unit:
                mass[runs[position], frame] += probability
    return mass[runs].argmax(1).tolist()


@pytest.mark.parametrize("seed", range(12))
def test_frames_are_those_of_all_paths_listed(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(1, 6, 3, generator=random)
    units = [[1, 2], [1, 1], [2, 2, 1], [2], [1, 2, 1]][seed % 5]
    found = unit_frames(logits, torch.tensor([6]), torch.tensor([units]), torch.tensor([len(units)]))
    assert found.is_aligned.tolist() == [True]
    assert found.frames[0].tolist() == brute_force(logits[0].log_softmax(-1), units)


def test_of_a_sure_model_they_are_the_best_path() -> None:
    random = torch.Generator().manual_seed(3)
    units = torch.tensor([[4, 2, 7, 7, 1]])
    logits = torch.randn(1, 40, 9, generator=random)
    for frame, unit in zip((3, 11, 19, 24, 33), units[0], strict=True):
        logits[0, frame, unit] += 25
    logits[..., 0] += 6
    path = forced_align(logits.log_softmax(-1), units.int(), blank=0)[0][0]
    found = unit_frames(logits, torch.tensor([40]), units, torch.tensor([5]))
    first, last = (int(x) for x in (path == 7).nonzero().flatten()[[0, -1]])
    assert found.frames[0].tolist() == [3, 11, *2 * [int(found.frames[0, 2])], 33]
    assert first <= int(found.frames[0, 2]) <= last


def test_padding_neighbours_and_autograd_mode_change_nothing() -> None:
    random = torch.Generator().manual_seed(1)
    logits, units = torch.randn(2, 30, 5, generator=random), torch.tensor([[1, 2, 2, 3], [4, 4, 9, 9]])
    lengths, unit_lengths = torch.tensor([30, 17]), torch.tensor([4, 2])
    both = unit_frames(logits, lengths, units % 5, unit_lengths)
    wild = logits.clone()
    wild[1, 17:] = 50.0
    other = unit_frames(wild, lengths, torch.tensor([[1, 2, 2, 3], [4, 4, 4, 1]]), unit_lengths)
    alone = unit_frames(logits[1:, :17], lengths[1:], units[1:, :2], unit_lengths[1:])
    with torch.inference_mode():
        inferred = unit_frames(logits, lengths, units % 5, unit_lengths)
    for one in (other, inferred):
        assert torch.equal(one.frames[0], both.frames[0])
        assert torch.equal(one.frames[1, :2], both.frames[1, :2])
    assert torch.equal(alone.frames[0], both.frames[1, :2])
    assert int(both.frames[1, :2].max()) < 17


def test_without_knowledge_units_lie_evenly_and_in_order() -> None:
    frames = unit_frames(
        torch.zeros(1, 90, 5), torch.tensor([90]), torch.tensor([[1, 2, 3]]), torch.tensor([3])
    )
    first, second, third = frames.frames[0].tolist()
    assert first < second < third and abs(second - 45) <= 2


def test_an_utterance_with_more_units_than_frames_is_not_aligned_and_attends_freely() -> None:
    units, lengths = torch.tensor([[1, 1, 1], [1, 2, 0]]), torch.tensor([4, 4])
    found = unit_frames(torch.zeros(2, 4, 3), lengths, units, torch.tensor([3, 2]))
    assert found.is_aligned.tolist() == [False, True]
    spans = torch.tensor([[[0, 1], [1, 2]], [[0, 1], [1, 2]]])
    mask = windows(found, spans, lengths, 5, 0)
    assert mask[0].tolist() == [[True] * 4 + [False]] * 2
    assert mask[1].sum(1).tolist() == [1, 1]


def test_a_window_is_its_units_and_the_margin_within_the_utterance() -> None:
    aligned = UnitFrames(torch.tensor([[2, 5, 9]]), torch.tensor([True]))
    spans = torch.tensor([[[0, 2], [2, 3], [0, 0]]])
    shown = windows(aligned, spans, torch.tensor([10]), 12, 1)[0]
    assert [row.nonzero().flatten().tolist() for row in shown] == [
        [1, 2, 3, 4, 5, 6],
        [8, 9],
        list(range(10)),
    ]
    from_previous = windows(aligned, spans, torch.tensor([10]), 12, 0, from_previous=True)[0]
    assert [row.nonzero().flatten().tolist() for row in from_previous[:2]] == [
        [0, 1, 2, 3, 4, 5],
        [6, 7, 8, 9],
    ]


def test_an_alignment_stretches_with_the_utterance() -> None:
    aligned = UnitFrames(torch.tensor([[0, 10, 19]]), torch.tensor([True]))
    stretched = scaled_to(aligned, torch.tensor([20]), torch.tensor([10]))
    assert stretched.frames.tolist() == [[0, 5, 9]]
