"""The steps of a run with the batches that they take: a step knows its own, and no other's."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import tee

from student.data.dataset import SpeechBatch, SpeechDataset, load_batches
from student.data.sampler import BatchSampler, Indices, Step
from student.errors import StudentError


@dataclass(frozen=True, slots=True)
class LoadedStep:
    """One optimiser step, and this rank's micro-batches of it, each read when it is asked for."""

    step: Step
    batches: Iterator[SpeechBatch]


def loaded_steps(
    sampler: BatchSampler,
    speech: SpeechDataset,
    position: tuple[int, int],
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
) -> Generator[LoadedStep]:
    """Steps without end, from (epoch, step in epoch) on; readers ahead of them end when it is closed.

    A step's batches must be taken before the next step is asked for. Raises StudentError where a batch is
    not the step's own.
    """
    for_keys, for_run = tee(sampler.steps(*position))
    keys = (
        [(step.epoch, int(index)) for index in indices]
        for step in for_keys
        for indices in step.share(rank, world)
    )
    batches = load_batches(speech, keys, workers)
    try:
        for step in for_run:
            left = list(step.share(rank, world))
            yield LoadedStep(step, _own(step, left, batches))
            if left:
                raise StudentError(f"{len(left)} batches of epoch {step.epoch} were not taken by their step")
    finally:
        batches.close()


def _own(step: Step, left: list[Indices], batches: Iterator[SpeechBatch]) -> Iterator[SpeechBatch]:
    while left:
        batch, expected = next(batches), (step.epoch, tuple(left.pop(0).tolist()))
        if (batch.epoch, batch.indices) != expected:
            raise StudentError(
                f"a batch of epoch {batch.epoch} came for one of epoch {step.epoch}: {batch.indices}, "
                f"not {expected[1]}"
            )
        yield batch
