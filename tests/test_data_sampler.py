"""Laws of the batch order: complete, bounded, keyed, resumable."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from student.data.sampler import BatchSampler, Step
from student.errors import StudentError

DURATIONS = st.lists(st.floats(0.2, 20.0), min_size=1, max_size=60).map(np.array)


def sampler_of(seconds: np.ndarray, batch: float = 60.0, micro: float = 25.0, seed: int = 1) -> BatchSampler:
    return BatchSampler(
        seconds_of=lambda epoch: seconds, batch_seconds=batch, micro_batch_seconds=micro, seed=seed
    )


def flat(steps: list[Step]) -> list[list[int]]:
    return [batch.tolist() for step in steps for batch in step.micro_batches]


@given(DURATIONS, st.integers(0, 3))
def test_every_utterance_occurs_once_an_epoch_and_no_batch_exceeds_the_limit(
    seconds: np.ndarray, epoch: int
) -> None:
    batches = flat(sampler_of(seconds).epoch(epoch))
    assert sorted(index for batch in batches for index in batch) == list(range(len(seconds)))
    assert all(len(batch) * seconds[batch].max() <= 25.0 * (1 + 1e-9) for batch in batches)


@given(DURATIONS, st.integers(0, 40))
def test_resuming_at_a_position_continues_the_same_sequence(seconds: np.ndarray, position: int) -> None:
    whole = list(islice(sampler_of(seconds).steps(), position + 5))
    last = whole[position]
    resumed = list(islice(sampler_of(seconds).steps(last.epoch, last.step_in_epoch), 5))
    assert flat(resumed) == flat(whole[position:])
    assert [(s.epoch, s.step_in_epoch) for s in resumed] == [
        (s.epoch, s.step_in_epoch) for s in whole[position:]
    ]


def test_a_position_at_the_end_of_an_epoch_is_the_start_of_the_next() -> None:
    sampler = sampler_of(np.linspace(1, 20, 50))
    steps = len(sampler.epoch(0))
    assert flat([next(sampler.steps(0, steps))]) == flat([next(sampler.steps(1, 0))])


def test_order_changes_with_seed_and_epoch_alone() -> None:
    seconds = np.random.default_rng(0).uniform(1, 20, 200)
    first = flat(sampler_of(seconds).epoch(0))
    assert first == flat(sampler_of(seconds).epoch(0))
    assert first != flat(sampler_of(seconds).epoch(1))
    assert first != flat(sampler_of(seconds, seed=2).epoch(0))


def test_steps_hold_about_the_seconds_asked_for_and_little_padding() -> None:
    seconds = np.random.default_rng(0).uniform(2, 16, 2000)
    sampler = sampler_of(seconds, batch=200.0, micro=50.0)
    totals = [sum(seconds[batch].sum() for batch in step.micro_batches) for step in sampler.epoch(0)]
    assert 175 < min(totals[:-1]) and max(totals) < 225
    assert sampler.padding_fraction() < 0.05


def test_the_shares_of_all_ranks_are_the_step() -> None:
    step = sampler_of(np.full(40, 5.0), batch=200.0).epoch(0)[0]
    shares = [step.share(rank, 3) for rank in range(3)]
    assert sorted(i for share in shares for batch in share for i in batch) == sorted(
        i for batch in step.micro_batches for i in batch
    )
    assert step.num_utterances == 40


def test_speed_perturbed_durations_of_the_epoch_decide_its_batches() -> None:
    seconds = np.full(10, 10.0)
    sampler = BatchSampler(
        seconds_of=lambda epoch: seconds * (1 + epoch), batch_seconds=20, micro_batch_seconds=20, seed=1
    )
    assert (len(flat(sampler.epoch(0))), len(flat(sampler.epoch(1)))) == (5, 10)


def test_an_utterance_that_fits_no_batch_is_an_error() -> None:
    with pytest.raises(StudentError, match="micro_batch_seconds"):
        sampler_of(np.array([1.0, 26.0])).epoch(0)
