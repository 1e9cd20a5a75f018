"""Which device and which number format a run uses: said in one line, never changed in silence."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import inf
from pathlib import Path

import torch

from student.errors import StudentError
from student.training.distributed import ALONE, Ranks

_NVIDIA_TRACES = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidia0"))
_CPU_BFLOAT16_UNITS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # x86-64, then aarch64
_LEAST_BFLOAT16_GAIN = 1.2  # seen: 0.5 with avx512_bf16 alone on a Xeon whose AMX is hidden, 3 with AMX


@dataclass(frozen=True, slots=True)
class Precision:
    """The dtype that autocast computes in (float32: no autocast), and a line that says why."""

    dtype: torch.dtype
    reason: str


def choose_device(name: str) -> torch.device:
    """The device of a config value: "auto" takes CUDA, then MPS, then the CPU.

    Raises StudentError where the device asked for is absent, and where "auto" would leave an NVIDIA
    GPU idle because PyTorch cannot use it.
    """
    if name == "cpu":
        return torch.device("cpu")
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        if not torch.cuda.is_available():
            raise StudentError("device cuda: PyTorch finds no CUDA GPU here; set trainer.device=cpu")
        return torch.device("cuda")
    if name == "auto" and nvidia_gpu_present():
        raise StudentError(
            "an NVIDIA GPU is there but PyTorch cannot use it (see `nvidia-smi` and the driver); "
            "set trainer.device=cpu to train without it"
        )
    if name == "mps" or (name == "auto" and torch.backends.mps.is_available()):
        if not torch.backends.mps.is_available():
            raise StudentError("device mps: PyTorch finds no Apple GPU here; set trainer.device=cpu")
        return torch.device("mps")
    if name == "auto":
        return torch.device("cpu")
    raise StudentError(f"device {name!r} is not one of auto, cpu, cuda, mps")


def nvidia_gpu_present() -> bool:
    """True where the system shows an NVIDIA GPU, whether PyTorch can use it or not."""
    return any(trace.exists() for trace in _NVIDIA_TRACES)


def choose_precision(name: str, device: torch.device, ranks: Ranks = ALONE) -> Precision:
    """The number format of a config value: "auto" takes bfloat16 where the machine is faster in it.

    A CPU that has units for it may still be slower: there "auto" multiplies in both, some 50 ms long.
    ranks : all of them call this; where one measures that float32 is faster, all compute in it
    Raises StudentError where bfloat16 or float16 is asked for and would be emulated.
    """
    if name == "float32":
        return Precision(torch.float32, "float32, as asked")
    if name == "float16":
        if device.type != "cuda":
            raise StudentError(
                f"precision float16: for CUDA GPUs, this is a {device.type}; set trainer.precision=auto"
            )
        return Precision(torch.float16, "float16 with a scaled loss, as asked")
    units = bfloat16_units(device)
    if name == "bfloat16" and not units:
        raise StudentError(
            f"precision bfloat16: this {device.type} would emulate it; set trainer.precision=float32"
        )
    if name == "auto":
        objection = _objection_to_bfloat16(device, units)
        if ranks.largest(int(bool(objection))):
            return Precision(torch.float32, f"float32 ({objection or 'another rank is faster in it'})")
    return Precision(torch.bfloat16, f"bfloat16 ({units})")


def _objection_to_bfloat16(device: torch.device, units: str) -> str:
    """Why "auto" does not take it on this device, "" where it does."""
    if not units:
        return f"this {device.type} has no bfloat16 units"
    gain = bfloat16_gain() if device.type == "cpu" else inf
    return "" if gain >= _LEAST_BFLOAT16_GAIN else f"bfloat16 by {units} has {gain:.1f} of its speed here"


def bfloat16_units(device: torch.device) -> str:
    """What computes bfloat16 on the device, "" where nothing does."""
    if device.type == "cuda":
        return "tensor cores" if torch.cuda.is_bf16_supported(including_emulation=False) else ""
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return ", ".join(unit for unit in _CPU_BFLOAT16_UNITS if capabilities.get(unit))
    return ""


def bfloat16_gain(width: int = 256, rounds: int = 30) -> float:
    """How many products of square matrices this CPU makes in bfloat16 while it makes one in float32.

    Both in turn, the best round of each: other work on the machine makes a round slow, never fast.
    """
    seconds = dict.fromkeys((torch.float32, torch.bfloat16), inf)
    matrices = {dtype: torch.ones(width, width, dtype=dtype) for dtype in seconds}
    for _ in range(rounds + 1):  # what the first round sets up makes it slower than any other
        for dtype, matrix in matrices.items():
            begin = time.perf_counter()
            torch.mm(matrix, matrix)
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - begin)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def describe_device(device: torch.device) -> str:
    """The device in words, with the CPU's threads or the GPU's name."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type
