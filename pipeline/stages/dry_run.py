"""What a training would take, told before it is begun."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

from pipeline.config import ExperimentConfig
from pipeline.console import Report, say
from pipeline.paths import Roots
from pipeline.stages.train import training_job


def plan_training(config: ExperimentConfig, roots: Roots, run_dir: Path, cache_reference: str) -> Report:
    """Parameters, memory, steps, hours and disk of the training, from a few timed steps; nothing is kept."""
    from student.training.estimate import estimate_training

    estimate = estimate_training(training_job(config, roots, run_dir, cache_reference), say)
    free_megabytes = shutil.disk_usage(_existing(run_dir)).free / 1e6
    padding = f"{estimate.padding_fraction:.1%}"
    lines = [
        f"{config.name} on {estimate.device}, {estimate.precision}; {run_dir}",
        f"parameters  {estimate.parameters:,}, of which {estimate.inference_parameters:,} stay for inference",
        f"memory      {estimate.peak_memory_megabytes:,.0f} MB at its peak in {estimate.timed_steps} steps",
        f"steps       {estimate.steps:,}: {estimate.epochs:.1f} epochs, {padding} padding",
        f"time        {estimate.hours:.2f} h at {estimate.seconds_per_step:.2f} s a step "
        f"({estimate.audio_seconds_per_second:.0f} x real time); measuring dev and saving come on top",
        f"disk        {estimate.disk_megabytes:,.0f} MB of checkpoints at most "
        f"({estimate.checkpoint_megabytes:,.0f} MB each), {free_megabytes:,.0f} MB free",
    ]
    if estimate.disk_megabytes > free_megabytes:
        lines.append("warning: the checkpoints do not fit; lower trainer.keep_checkpoints or free space")
    result = {**asdict(estimate), "run": str(run_dir), "free_megabytes": free_megabytes}
    return Report(result, lines)


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return folder if folder.is_dir() else _existing(folder.parent)
