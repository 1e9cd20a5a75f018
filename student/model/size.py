"""How large a student is, and whether there is room for it, before any of it is allocated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from student.config import StudentConfig
from student.errors import StudentError
from student.model.student_model import Bert2CTC
from teacher_cache.common.memory import machine_bytes
from teacher_cache.common.sizes import megabytes

WEIGHT_BYTES = 4
TRAINED_WEIGHT_BYTES = 16  # the weight, its gradient, two moments of AdamW: float32 each


def shapes_of(config: StudentConfig, num_units: int, num_pieces: int | None) -> dict[str, torch.Size]:
    """Name -> shape of every parameter and buffer of `Bert2CTC(config, num_units, num_pieces)`."""
    with torch.device("meta"), _Unfilled():
        model = Bert2CTC(config, num_units, num_pieces)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


class _Unfilled(TorchFunctionMode):
    """Nothing is drawn for what has no memory: the part of PyTorch that would takes a second to load."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        return given["tensor"] if func is torch.nn.init.normal_ else func(*args, **given)


def require_room(config: StudentConfig, num_units: int, num_pieces: int | None, device: torch.device) -> None:
    """StudentError where a training's weights, gradients and moments exceed the memory that there is."""
    shapes = shapes_of(config, num_units, num_pieces)
    weights = sum(shape.numel() for shape in shapes.values())
    for where, needed, there in (
        ("this machine", weights * WEIGHT_BYTES, machine_bytes()),
        (str(device), weights * TRAINED_WEIGHT_BYTES, _device_bytes(device)),
    ):
        if needed > there:
            raise StudentError(
                f"a student of {weights:,} weights needs {megabytes(needed)} on {where}, which has "
                f"{megabytes(there)}; lower model_dim, feed_forward_dim or num_layers under [conformer]"
            )


def _device_bytes(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else machine_bytes()
