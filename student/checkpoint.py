"""Checkpoints: whole or not there, self-contained, and loaded without running any code they might hold."""

from __future__ import annotations

import json
import os
import re
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from student.config import StudentConfig
from student.errors import StudentError
from teacher_cache.files import write_json

FORMAT_VERSION = 1
FINAL_NAME = "final.pt"
_FOLDER, _BEST_NAME = "checkpoints", "best.json"
_STEP_NAME = re.compile(r"step-(\d{8,})\.pt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """All that a run needs to go on, or a model to be used: tensors and plain values only.

    step : optimiser steps done; the learning rate and the seed of dropout follow from it
    epoch, step_in_epoch : the sampler's next position     bad_steps_in_row : skipped just before
    optimiser : state dict, empty in a finished model     units_model : bytes of the SentencePiece model
    pieces : the teacher's ids that the decoders know, None without decoders
    totals : of the whole run so far: skipped_steps, seconds, audio_seconds
    """

    config: StudentConfig
    model: Mapping[str, Tensor]
    optimiser: Mapping[str, Any]
    step: int
    epoch: int
    step_in_epoch: int
    bad_steps_in_row: int
    totals: Mapping[str, float]
    units_model: bytes
    pieces: tuple[int, ...] | None
    cache_fingerprint: str
    versions: Mapping[str, str]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write it to a partial name, force it to disk, rename. Raises StudentError where that fails."""
    content = {name: getattr(checkpoint, name) for name in Checkpoint.__slots__}
    content |= {
        "format_version": FORMAT_VERSION,
        "config": asdict(checkpoint.config),
        "model": dict(checkpoint.model),
        "units_model": torch.frombuffer(bytearray(checkpoint.units_model), dtype=torch.uint8),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        partial.unlink(missing_ok=True)
        raise StudentError(
            f"{path}: cannot be written ({error}); earlier checkpoints are whole: free space and train again"
        ) from None


def load_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint, its tensors on the CPU. Raises StudentError for a damaged or foreign file."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # foreign bytes make the unpickler raise anything; it never runs them
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StudentError(
            f"{path}: no readable checkpoint ({reason}); delete it to use an earlier one"
        ) from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise StudentError(
            f"{path}: checkpoint format {version}, this code reads {FORMAT_VERSION}; train again"
        )
    content["config"] = config_from_tables(content["config"])
    content["units_model"] = content["units_model"].numpy().tobytes()
    return Checkpoint(**{name: content[name] for name in Checkpoint.__slots__})


def config_from_tables(tables: Mapping[str, Mapping[str, Any]]) -> StudentConfig:
    """The config that `dataclasses.asdict` took apart."""
    types = typing.get_type_hints(StudentConfig)
    return StudentConfig(**{name: types[name](**table) for name, table in tables.items()})


def step_path(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run_dir / _FOLDER / f"step-{step:08d}.pt"


def saved_steps(run_dir: Path) -> list[int]:
    """Steps with a checkpoint, ascending."""
    names = (_STEP_NAME.fullmatch(path.name) for path in (run_dir / _FOLDER).glob("step-*.pt"))
    return sorted(int(name[1]) for name in names if name)


def best_step(run_dir: Path) -> tuple[int, float] | None:
    """The step with the lowest dev WER so far and that WER, None before the first evaluation."""
    path = run_dir / _FOLDER / _BEST_NAME
    if not path.is_file():
        return None
    best = json.loads(path.read_text(encoding="utf-8"))
    return int(best["step"]), float(best["dev_wer"])


def mark_best(run_dir: Path, step: int, dev_wer: float) -> None:
    """Remember the step as the best one; its checkpoint must have been saved."""
    write_json(run_dir / _FOLDER / _BEST_NAME, {"step": step, "dev_wer": dev_wer})


def prune_checkpoints(run_dir: Path, keep: int) -> None:
    """Delete all but the last `keep` checkpoints and the best one."""
    best = best_step(run_dir)
    for step in saved_steps(run_dir)[: -max(keep, 1)]:
        if best is None or step != best[0]:
            step_path(run_dir, step).unlink(missing_ok=True)


def model_path(run: Path) -> Path:
    """The file to use for inference: of a run folder final.pt, else its best, else its last checkpoint.

    A path to a checkpoint stands for itself. Raises StudentError where there is none.
    """
    if run.is_file():
        return run
    if (run / FINAL_NAME).is_file():
        return run / FINAL_NAME
    steps, best = saved_steps(run), best_step(run)
    if best is not None and best[0] in steps:
        return step_path(run, best[0])
    if not steps:
        raise StudentError(f"{run}: holds no trained model; train it first with `bert2ctc train`")
    return step_path(run, steps[-1])
