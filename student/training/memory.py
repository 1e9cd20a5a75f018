"""Memory: what this process has held, and too little of it reported in one line before the first step."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from student.config import StudentConfig
from student.data.dataset import SpeechBatch, SpeechDataset, load_batches
from student.data.sampler import BatchSampler, Indices
from student.errors import StudentError
from student.loss.objective import Objective
from student.training.device import describe_device
from student.training.run_folder import ANOTHER_RUN
from teacher_cache.common.sizes import MEGABYTE
from teacher_cache.common.small_files import read_text

_KEY = "trainer.micro_batch_seconds"
LossOf = Callable[[SpeechBatch, int], Objective]  # of a batch and its utterances


def largest_batches(sampler: BatchSampler, epoch: int) -> list[Indices]:
    """The micro-batch with the most padded audio, and the one with the longest utterance, once each."""
    seconds = sampler.seconds_of(epoch)
    batches = [batch for step in sampler.epoch(epoch) for batch in step.micro_batches]
    most = max(batches, key=lambda batch: len(batch) * float(seconds[batch].max()))
    longest = max(batches, key=lambda batch: float(seconds[batch].max()))
    return [most] if most is longest else [most, longest]


def probe_memory(
    model: nn.Module,
    sampler: BatchSampler,
    epoch: int,
    speech: SpeechDataset,
    config: StudentConfig,
    loss_of: LossOf,
) -> None:
    """Rehearse the largest batches of the epoch. Raises StudentError where one does not fit."""
    device = next(model.parameters()).device
    keys = [[(epoch, int(index)) for index in batch] for batch in largest_batches(sampler, epoch)]
    for batch in load_batches(speech, keys):
        with memory_advice(batch, config, device):
            rehearse(model, batch, loss_of)


def rehearse(model: nn.Module, batch: SpeechBatch, loss_of: LossOf) -> None:
    """One forward and backward pass beside room for AdamW's two moments; the model stays as it was.

    Draws dropout from the default generator, which every step seeds anew.
    """
    room = [torch.empty_like(parameter) for parameter in model.parameters() for _ in range(2)]
    try:
        loss_of(batch, len(batch.indices)).loss.backward()  # type: ignore[no-untyped-call]
    finally:
        del room
        model.zero_grad(set_to_none=True)


@contextmanager
def memory_advice(batch: SpeechBatch, config: StudentConfig, device: torch.device) -> Iterator[None]:
    """Turn PyTorch's out-of-memory error into one line that names the setting to lower."""
    try:
        yield
    except torch.OutOfMemoryError:
        longest = float(batch.sample_lengths.max()) / config.features.sample_rate_hz
        count, limit = len(batch.indices), config.trainer.micro_batch_seconds
        lower = "lower data.max_seconds" if count == 1 else f"lower {_KEY} (now {limit:g})"
        raise StudentError(
            f"out of memory on {describe_device(device)}: a batch of {count * longest:.0f} s ({count} x "
            f"{longest:.1f} s) does not fit; {lower} in a new run, with {ANOTHER_RUN}"
        ) from None


def high_water_megabytes() -> float:
    """The most that this process has held at a time, in MB.

    On Linux from /proc: getrusage there also counts what the process that started this one had held.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = [line for line in read_text(status).splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024 / MEGABYTE
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEGABYTE
