"""The optimiser and its learning rate, a function of the step alone."""

from __future__ import annotations

from math import cos, pi

import torch
from torch import nn

from student.config import TrainerConfig


def learning_rate(step: int, config: TrainerConfig) -> float:
    """Rate of step 1..max_steps: a line up over `warmup_steps`, then a cosine down to the final fraction."""
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps)
    cosine = (1 + cos(pi * min(progress, 1.0))) / 2
    lowest = config.final_learning_rate_fraction
    return config.learning_rate * (lowest + (1 - lowest) * cosine)


def build_optimiser(model: nn.Module, config: TrainerConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019); biases and normalisation weights do not decay."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)
