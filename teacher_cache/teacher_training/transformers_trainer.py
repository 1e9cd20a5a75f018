"""What every training by transformers' Trainer shares: arguments, a line of progress, where it goes on."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from transformers import TrainerCallback, TrainingArguments

LOG_EVERY_STEPS = 20


class Schedule(Protocol):
    """The settings that decide how a training goes, whatever it trains."""

    @property
    def batch_size(self) -> int:
        """Sentences a step."""
        ...

    @property
    def max_steps(self) -> int:
        """Of the whole training."""
        ...

    @property
    def learning_rate(self) -> float:
        """At its peak."""
        ...

    @property
    def warmup_fraction(self) -> float:
        """Of the steps, up to the peak."""
        ...

    @property
    def weight_decay(self) -> float:
        """Of AdamW."""
        ...

    @property
    def seed(self) -> int:
        """Of Trainer's own draws, dropout among them."""
        ...

    @property
    def save_every_steps(self) -> int:
        """What a killed training loses at most."""
        ...


def training_arguments(
    config: Schedule, checkpoints: Path, device: str, has_bfloat16: bool
) -> TrainingArguments:
    """Trainer's arguments: our order and progress, no reports to anywhere, linear decay after warm-up."""
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=config.batch_size,
        max_steps=config.max_steps,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_fraction * config.max_steps,
        weight_decay=config.weight_decay,
        bf16=has_bfloat16,
        use_cpu=device == "cpu",
        seed=config.seed,
        save_strategy="steps",
        save_steps=config.save_every_steps,
        save_total_limit=2,
        logging_steps=LOG_EVERY_STEPS,
        logging_nan_inf_filter=False,  # it would hide them
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        remove_unused_columns=False,
        train_sampling_strategy="sequential",  # `training_order` has shuffled already
        dataloader_pin_memory=device == "cuda",
    )
    # Trainer would split a batch over all GPUs in threads; a model of this size wants one.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


class ProgressLine(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Our progress line instead of Trainer's; a loss that is no number ends the training.

    refusal : of such a loss and its step, the error to raise
    """

    def __init__(self, advance: Callable[..., None], refusal: Callable[[float, int], Exception]) -> None:
        self._advance, self._refusal, self._note = advance, refusal, ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """As far as an earlier process came."""
        self._advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One step further."""
        self._advance(1, self._note)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """The loss beside the bar; raises the refusal of one that is no number."""
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise self._refusal(logs["loss"], state.global_step)
        self._note = f"loss {logs['loss']:.3f}"


def last_checkpoint(checkpoints: Path) -> tuple[str | None, int]:
    """The newest whole checkpoint and its step; Trainer writes trainer_state.json last."""
    whole = [path.parent for path in checkpoints.glob("checkpoint-*/trainer_state.json")]
    steps = {int(path.name.rpartition("-")[2]): path for path in whole}
    return (str(steps[max(steps)]), max(steps)) if steps else (None, 0)
