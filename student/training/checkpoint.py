"""Checkpoints: whole or not there, self-contained, and loaded without running any code they might hold."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch
from torch import Tensor

from student.config import StudentConfig
from student.errors import StudentError
from student.files import FILES, disk_faults_told
from student.training.run_folder import (
    FINAL_NAME,
    best_step,
    mark_best,
    model_path,
    prune_checkpoints,
    saved_steps,
    step_path,
)
from teacher_cache.common.files import whole_file
from teacher_cache.common.small_files import MAX_BYTES, open_regular
from teacher_cache.common.typed import Fault, convert, typed
from teacher_cache.settings import shown_value

__all__ = [
    "FINAL_NAME",
    "Checkpoint",
    "best_step",
    "load_checkpoint",
    "mark_best",
    "model_path",
    "prune_checkpoints",
    "require_finite",
    "save_checkpoint",
    "saved_steps",
    "step_path",
]

FORMAT_VERSION = 4
READABLE_VERSIONS = (2, 3, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """All that a run needs to go on, or a model to be used: tensors and plain values only.

    step : optimiser steps done; the learning rate and the seed of dropout follow from it
    epoch, step_in_epoch : the sampler's next position     bad_steps_in_row : skipped just before
    optimiser : state dict, empty in a finished model     units_model : bytes of the SentencePiece model
    pieces : the teacher's ids that the decoders know, None without decoders
    totals : of the whole run so far: skipped_steps, seconds, audio_seconds, data_wait_seconds
    loss_scale : state of the gradient scaler, empty unless precision is float16
    spike_detector, branch_balance, clipping : their states
    average : of the weights by parameter, after so many averaged_steps; empty where none is kept
    """

    config: StudentConfig
    model: Mapping[str, Tensor]
    optimiser: Mapping[str, Any]
    step: int
    epoch: int
    step_in_epoch: int
    bad_steps_in_row: int
    totals: Mapping[str, float]
    loss_scale: Mapping[str, int | float]
    spike_detector: Mapping[str, float]
    branch_balance: Mapping[str, float]
    clipping: Mapping[str, float]
    average: Mapping[str, Tensor]
    averaged_steps: int
    units_model: bytes
    pieces: tuple[int, ...] | None
    cache_fingerprint: str
    versions: Mapping[str, str]

    @property
    def usable_model(self) -> dict[str, Tensor]:
        """The weights to recognise with: the averaged ones where the run keeps an average."""
        return {**self.model, **self.average}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write it whole or not at all; what was saved before stays as it was.

    Raises StudentError where the disk refuses it, and for weights or optimiser states that are not finite:
    the last good checkpoint is worth more than a state that no step can mend.
    """
    require_finite({"model": checkpoint.model, "optimiser": checkpoint.optimiser}, f"{path}: not saved")
    content = {name: getattr(checkpoint, name) for name in Checkpoint.__slots__}
    content |= {
        "format_version": FORMAT_VERSION,
        "config": asdict(checkpoint.config),
        "model": dict(checkpoint.model),
        "average": dict(checkpoint.average),
        "units_model": torch.frombuffer(bytearray(checkpoint.units_model), dtype=torch.uint8),
    }
    # torch reports a full disk as RuntimeError
    with disk_faults_told(path, (OSError, RuntimeError)), whole_file(path) as stream:
        torch.save(content, stream)


def require_finite(state: Any, what: str, name: str = "") -> None:
    """StudentError that begins with `what` where a tensor of a nested state holds NaN or infinity."""
    if isinstance(state, Tensor):
        if state.is_floating_point() and not bool(torch.isfinite(state).all()):
            raise StudentError(
                f"{what}: {name} holds NaN or infinity; go on from an earlier checkpoint, in a new run "
                "with a lower trainer.learning_rate"
            )
    elif isinstance(state, Mapping):
        for key, value in state.items():
            require_finite(value, what, f"{name}.{key}" if name else str(key))


def load_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint, its tensors on the CPU. Raises StudentError for a damaged or foreign file."""
    with FILES.faults_told(path, "no readable checkpoint; delete it to use an earlier one"):
        content = _unpickled(path)
        version = content.get("format_version") if isinstance(content, dict) else None
        if not isinstance(version, int) or version not in READABLE_VERSIONS:
            raise StudentError(
                f"{path}: checkpoint format {shown_value(version)}, this code reads {FORMAT_VERSION}; train "
                "again"
            )
        _bring_up_to_date(content)
        entry = {name: content[name] for name in Checkpoint.__slots__ if name in content}
        entry["units_model"] = _bytes_of(entry.get("units_model"))
        return typed(Checkpoint, entry)


def _unpickled(path: Path) -> Any:
    """What torch.save wrote, tensors and plain values only; of one open file, checked before it is read."""
    with open_regular(path) as stream:
        try:
            _refuse_altered(stream)
            stream.seek(0)
            return torch.load(stream, map_location="cpu", weights_only=True)
        except Exception as error:  # foreign bytes make the unpickler raise anything; it never runs them
            raise Fault(_reason(error)) from None


def _bytes_of(units_model: Any) -> bytes:
    if not isinstance(units_model, Tensor) or units_model.dtype != torch.uint8 or units_model.dim() != 1:
        raise Fault("its units are no bytes")
    if units_model.numel() > MAX_BYTES or units_model.layout != torch.strided or units_model.is_meta:
        raise Fault(f"its units are {units_model.numel():,} elements, {units_model.layout}")
    return units_model.numpy().tobytes()


def _reason(error: Exception) -> str:
    """What is wrong with the file; never PyTorch's advice to open it without protection."""
    if isinstance(error, UnpicklingError):
        return "it holds more than tensors and plain values, which is refused: it could run a program"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _bring_up_to_date(content: dict[str, Any]) -> None:
    """Format 3 knew no clipping and no average; 2 kept what spikes and branch learnt among the totals."""
    content.setdefault("clipping", {})
    content.setdefault("average", {})
    content.setdefault("averaged_steps", 0)
    if content["format_version"] > 2:
        return
    totals = convert(dict[str, float], content.get("totals"), "totals")
    mean, steps = totals.pop("mean_loss_per_second", 0.0), totals.pop("watched_steps", 0.0)
    content["totals"] = totals
    content["spike_detector"] = {"mean_loss_per_second": mean, "num_steps": steps}
    content["branch_balance"] = {"scale": totals.pop("branch_scale", 1.0)}


def _refuse_altered(stream: BinaryIO) -> None:
    """Raises BadZipFile where a part is not what its checksum says, which PyTorch writes and never reads.

    PyTorch stores parts as they are: packed ones could hold far more than the file.
    """
    with zipfile.ZipFile(stream) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise zipfile.BadZipFile("its parts are compressed, which torch.save never does")
        altered = archive.testzip()
    if altered is not None:
        raise zipfile.BadZipFile(f"{altered} is not what was written")
