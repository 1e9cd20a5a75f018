"""A step takes its own batches and no other's, on every rank and from every position."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest
from tiny_run import listening, tiny_job

from student.data import loaded_steps as module
from student.data.loaded_steps import LoadedStep, loaded_steps
from student.data.sampler import BatchSampler
from student.data.training_data import TrainingData, load_training_data
from student.errors import StudentError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    job = tiny_job(tmp_path_factory.mktemp("steps"), num_train=30, num_dev=2)
    return load_training_data(replace(job, config=listening(job.config)), None, lambda line: None)


def sampler_of(data: TrainingData) -> BatchSampler:
    seconds_of = data.train.speech.seconds
    return BatchSampler(seconds_of=seconds_of, batch_seconds=8.0, micro_batch_seconds=3.0, seed=4)


def taken(loaded: LoadedStep) -> list[tuple[int, ...]]:
    return [batch.indices for batch in loaded.batches]


@pytest.mark.parametrize(("workers", "position"), [(0, (0, 0)), (0, (1, 2)), (1, (0, 3))])
def test_all_ranks_together_take_each_step_of_the_sampler(
    data: TrainingData, workers: int, position: tuple[int, int]
) -> None:
    sampler = sampler_of(data)
    expected = sampler.steps(*position)
    ranks = [loaded_steps(sampler, data.train.speech, position, rank, 3, workers) for rank in range(3)]
    for _ in range(len(sampler.epoch(0)) + 2):  # across an epoch's end
        step, own = next(expected), [next(steps) for steps in ranks]
        assert {(loaded.step.epoch, loaded.step.step_in_epoch) for loaded in own} == {
            (step.epoch, step.step_in_epoch)
        }
        every = sorted(index for loaded in own for indices in taken(loaded) for index in indices)
        assert every == sorted(int(index) for indices in step.micro_batches for index in indices)
    for steps in ranks:
        steps.close()


def test_a_step_that_leaves_its_batches_is_told_before_the_next_takes_them(data: TrainingData) -> None:
    with closing(loaded_steps(sampler_of(data), data.train.speech, (0, 0))) as steps:
        taken(next(steps))
        assert len(next(steps).step.micro_batches) > 1
        with pytest.raises(StudentError, match=r"batches of epoch 0 were not taken by their step"):
            next(steps)


def test_a_batch_that_is_another_s_is_refused(data: TrainingData, monkeypatch: pytest.MonkeyPatch) -> None:
    original = module.load_batches

    def swapped(*arguments: object) -> object:
        batches = original(*arguments)  # type: ignore[arg-type]
        first, second = next(batches), next(batches)
        yield from (second, first)

    monkeypatch.setattr(module, "load_batches", swapped)
    with closing(loaded_steps(sampler_of(data), data.train.speech, (0, 0))) as steps:
        with pytest.raises(StudentError, match="a batch of epoch 0 came for one of epoch 0"):
            taken(next(steps))
