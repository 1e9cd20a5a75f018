"""The teacher's encoder through TorchInductor: a minute once in each worker, and a tenth off every batch.

Fused kernels round otherwise than PyTorch's own, and stand no further from float32; a plan says which of
them a build uses, and all its workers obey.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from teacher_cache.errors import CacheError

COMPILERS = ("g++", "clang++", "c++")
# Compilation takes a worker 30 to 60 s and saves 7 to 15 % of bfloat16 scoring on a CPU: it has paid for
# itself after ten minutes, and half an hour leaves room for a wrong estimate.
PAYING_SECONDS = 1800.0
ASSUMED_FLOPS_PER_SECOND = 1e11  # of one thread in bfloat16; an order of magnitude is all that it decides

Encode = Callable[[Tensor], Tensor]


def pays(operations_per_worker: float, threads: int, dtype: str, device_type: str) -> bool:
    """True where "auto" compiles: long bfloat16 work on CPUs, the only kind for which a gain was measured."""
    seconds = operations_per_worker / (ASSUMED_FLOPS_PER_SECOND * threads)
    return device_type == "cpu" and dtype == "bfloat16" and seconds >= PAYING_SECONDS


def compiled(encode: Encode, device: str) -> Encode:
    """`encode`, ids int64 (B, L) to float (B, L, D), compiled once for every batch size and length.

    Weights are frozen into the code. Raises CacheError where this machine cannot compile.
    """
    fast = torch.compile(encode, dynamic=True, options={"freezing": True})
    try:
        with torch.inference_mode():
            fast(torch.ones(3, 7, dtype=torch.int64, device=device))
    except Exception as error:  # a missing compiler or header, each with an error of its own
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CacheError(
            f"cannot compile the teacher's encoder ({reason[:200]}); install a C++ compiler and Python's "
            'headers, or set [build] compile = "never" (and remove the unfinished build, if there is one)'
        ) from error
    return fast


@cache
def why_not() -> str:
    """Why this machine cannot compile, in words; "" where it can. Tried once, on a function of one line."""
    if not has_compiler():
        return f"no C++ compiler ({', '.join(COMPILERS)})"
    try:
        compiled(lambda ids: ids.float().exp(), "cpu")
    except CacheError as error:
        return str(error)
    return ""


def has_compiler() -> bool:
    """True where TorchInductor finds a C++ compiler: $CXX, or one of the usual names."""
    named = os.environ.get("CXX")
    return any(shutil.which(name) for name in ([named] if named else COMPILERS))
