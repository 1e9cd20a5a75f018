"""Batches of utterances of like duration, measured in seconds, in one order that (seed, epoch) decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from student.errors import StudentError

Indices = npt.NDArray[np.int64]
_LENGTH_JITTER = 0.02  # neighbours within 2 % of duration swap from epoch to epoch


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step.

    micro_batches : indices of the utterances that go through the model together, one array each
    """

    epoch: int
    step_in_epoch: int
    micro_batches: tuple[Indices, ...]

    @property
    def num_utterances(self) -> int:
        """Utterances of the global batch, over all ranks and micro-batches."""
        return sum(len(batch) for batch in self.micro_batches)

    def share(self, rank: int = 0, world: int = 1) -> tuple[Indices, ...]:
        """The micro-batches of one rank: whole ones in turn, and its part of each that is left over."""
        whole = len(self.micro_batches) // world * world
        parts = [batch[rank::world] for batch in self.micro_batches[whole:]]
        return (*self.micro_batches[rank:whole:world], *(part for part in parts if len(part)))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSampler:
    """The endless sequence of optimiser steps of a run.

    seconds_of : epoch -> float64 (N,), durations in that epoch (speed perturbation included)
    batch_seconds : audio per optimiser step, about     micro_batch_seconds : padded audio at once, at most
    """

    seconds_of: Callable[[int], npt.NDArray[np.float64]]
    batch_seconds: float
    micro_batch_seconds: float
    seed: int

    def epoch(self, epoch: int) -> list[Step]:
        """All steps of an epoch; every utterance occurs in exactly one micro-batch.

        Raises StudentError where one utterance alone exceeds micro_batch_seconds.
        """
        seconds = self.seconds_of(epoch)
        random = np.random.default_rng((self.seed, epoch))
        batches = bucketed(seconds, self.micro_batch_seconds, random)
        steps = grouped(batches, seconds, self.batch_seconds)
        return [Step(epoch, number, tuple(step)) for number, step in enumerate(steps)]

    def steps(self, epoch: int = 0, step_in_epoch: int = 0) -> Iterator[Step]:
        """Steps without end, from a position; what came before it is never touched."""
        while True:
            steps = self.epoch(epoch)
            yield from steps[step_in_epoch:]
            epoch, step_in_epoch = epoch + 1, 0

    def padding_fraction(self, epoch: int = 0) -> float:
        """Padding over all audio of an epoch's micro-batches, 0..1."""
        seconds = self.seconds_of(epoch)
        batches = [batch for step in self.epoch(epoch) for batch in step.micro_batches]
        padded = sum(len(batch) * float(seconds[batch].max()) for batch in batches)
        return 1 - float(seconds.sum()) / padded


def bucketed(
    seconds: npt.NDArray[np.float64], micro_batch_seconds: float, random: np.random.Generator
) -> list[Indices]:
    """Micro-batches of like duration in random order; count times longest never exceeds the limit."""
    longest = int(seconds.argmax())
    if seconds[longest] > micro_batch_seconds:
        raise StudentError(
            f"an utterance lasts {seconds[longest]:.1f} s, more than micro_batch_seconds "
            f"{micro_batch_seconds:g}; raise trainer.micro_batch_seconds or lower data.max_seconds"
        )
    order = np.argsort(seconds * random.uniform(1, 1 + _LENGTH_JITTER, len(seconds)), kind="stable")
    batches, start, longest_here = [], 0, 0.0
    for end, duration in enumerate(seconds[order]):
        longest_here = max(longest_here, float(duration))
        if longest_here * (end + 1 - start) > micro_batch_seconds:
            batches.append(order[start:end])
            start, longest_here = end, float(duration)
    batches.append(order[start:])
    return [batches[index] for index in random.permutation(len(batches))]


def grouped(
    batches: list[Indices], seconds: npt.NDArray[np.float64], batch_seconds: float
) -> list[list[Indices]]:
    """Consecutive micro-batches to steps; a step ends where one more would take it further from the aim."""
    steps: list[list[Indices]] = []
    total = 0.0
    for batch in batches:
        added = float(seconds[batch].sum())
        if not steps or (total + added - batch_seconds) > (batch_seconds - total):
            steps.append([])
            total = 0.0
        steps[-1].append(batch)
        total += added
    return steps


def batches_of(seconds: npt.NDArray[np.float64], padded_seconds: float) -> list[Indices]:
    """Every utterance once in batches of like duration, for measuring; an overlong one is a batch alone."""
    return bucketed(seconds, max(padded_seconds, float(seconds.max())), np.random.default_rng(0))
