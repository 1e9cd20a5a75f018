"""torch.compile as an option: block by block, so that one graph serves every layer and every length."""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn
from torch._functorch import config as functorch_config

from student.model.attention_decoder import DecoderBlock
from student.model.conformer import ConformerBlock

_COMPILERS = ("g++", "clang++", "c++")


def compile_or_say_why_not(model: nn.Module, device: torch.device) -> str:
    """Compile the model's blocks where it can pay; the line that says what was done.

    Not on a CPU: TorchInductor 2.11 writes C++ for these blocks that no compiler takes (a `decltype` of a
    scalar), and there the time lies in matrix products anyway.
    """
    if device.type != "cuda":
        return f"trainer.compile: for CUDA GPUs, this is a {device.type}: training runs eagerly"
    if not has_compiler():
        return f"trainer.compile: no C++ compiler ({', '.join(_COMPILERS)}) here: training runs eagerly"
    return f"{compile_blocks(model)} blocks run compiled: the first steps take minutes"


def compile_blocks(model: nn.Module, backend: str = "inductor") -> int:
    """Compile the Conformer's and the decoders' blocks in place; how many there were.

    The state's names stay as they are. Batch size and length are symbols of the graph: new shapes compile
    nothing. No backward pass may give its inputs' memory away: a step that measures gradients runs it twice.
    """
    functorch_config.donated_buffer = False
    blocks = [block for block in model.modules() if isinstance(block, ConformerBlock | DecoderBlock)]
    for block in blocks:
        block.compile(dynamic=True, backend=backend)
    return len(blocks)


def has_compiler() -> bool:
    """True where TorchInductor finds a C++ compiler: $CXX, or one of the usual names."""
    named = os.environ.get("CXX")
    return any(shutil.which(name) for name in ([named] if named else _COMPILERS))
