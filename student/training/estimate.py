"""What a training will take, from its data and a few real steps; nothing of it is kept."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from student.data.training_data import TrainingJob, load_training_data
from student.training.checkpoint import load_checkpoint
from student.training.device import describe_device
from student.training.log import RunLog
from student.training.memory import high_water_megabytes
from student.training.run import Run
from student.training.run_folder import saved_steps, step_path
from teacher_cache.common.sizes import MEGABYTE

_WARM_UP_STEPS, _TIMED_STEPS = 1, 3
_SECONDS_PER_HOUR = 3600
_FILES_BEYOND_KEPT = 2  # one more while it is written, and final.pt, which is smaller


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingEstimate:
    """What a run takes.

    parameters, inference_parameters : weights with and without the decoders     steps : still to do
    hours : of those steps, as fast as the timed ones; measuring dev and saving come on top
    peak_memory_megabytes : of the process on a CPU, of the device's tensors on a GPU
    checkpoint_megabytes : one of them     disk_megabytes : all that are kept at a time, at most
    """

    parameters: int
    inference_parameters: int
    steps: int
    epochs: float
    seconds_per_step: float
    audio_seconds_per_second: float
    hours: float
    peak_memory_megabytes: float
    checkpoint_megabytes: float
    disk_megabytes: float
    padding_fraction: float
    device: str
    precision: str
    timed_steps: int


def estimate_training(job: TrainingJob, say: Callable[[str], None]) -> TrainingEstimate:
    """Time a few optimiser steps of the job; its run folder is read, never written."""
    steps = saved_steps(job.run_dir)
    checkpoint = load_checkpoint(step_path(job.run_dir, steps[-1])) if steps else None
    with tempfile.TemporaryDirectory(prefix="bert2ctc-dry-run-") as scratch:
        elsewhere = replace(job, run_dir=Path(scratch))
        with RunLog(elsewhere.run_dir, 0) as log:
            data = load_training_data(elsewhere, checkpoint.pieces if checkpoint else None, say)
            run = Run(elsewhere, data, log, checkpoint)
            left = max(0, job.config.trainer.max_steps - run.step)
            speed = _audio_seconds_per_second(run)
    epoch = run.sampler.epoch(run.epoch)
    audio_per_step = float(run.sampler.seconds_of(run.epoch).sum()) / len(epoch)
    state = _bytes(run.model.state_dict().values()) + _bytes(run.optimisation.average.state().values())
    entries = run.optimisation.optimiser.state.values()
    moments = [tensor for entry in entries for tensor in entry.values() if torch.is_tensor(tensor)]
    size = (state + _bytes(moments) + len(data.units.model_bytes)) / MEGABYTE
    trainer = job.config.trainer
    kept = trainer.keep_checkpoints + trainer.keep_best_checkpoints + _FILES_BEYOND_KEPT
    weights = {name: parameter.numel() for name, parameter in run.model.named_parameters()}
    return TrainingEstimate(
        parameters=sum(weights.values()),
        inference_parameters=sum(n for name, n in weights.items() if not name.startswith("decoders.")),
        steps=left,
        epochs=left / len(epoch),
        seconds_per_step=audio_per_step / speed,
        audio_seconds_per_second=speed,
        hours=left * audio_per_step / speed / _SECONDS_PER_HOUR,
        peak_memory_megabytes=_peak_memory_megabytes(run.device),
        checkpoint_megabytes=size,
        disk_megabytes=size * kept,
        padding_fraction=run.sampler.padding_fraction(run.epoch),
        device=describe_device(run.device),
        precision=run.precision.reason,
        timed_steps=_TIMED_STEPS,
    )


def _audio_seconds_per_second(run: Run) -> float:
    """Speed of the timed steps; the first is slower, since memory is asked for and kernels are made."""
    before: dict[str, float] = {}
    with closing(run.begin()) as steps:
        for number in range(_WARM_UP_STEPS + _TIMED_STEPS):
            if number == _WARM_UP_STEPS:
                before = dict(run.totals)
            run.train_step(steps)
    seconds, audio_seconds = (run.totals[key] - before[key] for key in ("seconds", "audio_seconds"))
    return audio_seconds / seconds


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _peak_memory_megabytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MEGABYTE
    return high_water_megabytes()
