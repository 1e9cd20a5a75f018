"""transformers' Trainer for masked tokens: only masked positions reach the vocabulary projection."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from teacher_cache.config import TeacherTrainingConfig
from teacher_cache.errors import CacheError
from teacher_cache.teacher_training.examples import OrderedExamples, SeededMasks
from teacher_cache.teacher_training.request import HELD_OUT_SENTENCES, HeldOutFigures
from teacher_cache.teacher_training.tokens import TokenTable

HELD_OUT_BATCH = 64
ROW_MULTIPLE = 64
LOG_EVERY_STEPS = 20


@contextmanager
def masked_rows_only(model: nn.Module, labels: Tensor) -> Iterator[Tensor]:
    """Inside, the model's head sees only the M masked positions of a batch, filled up to a multiple of 64.

    labels : (B, T), -100 where nothing is asked. Yields those of the chosen rows, (1, M + fill): give them
    to the model, and its own loss is unchanged, for heads work position by position. Without the fill,
    which asks nothing, every batch has a shape of its own, and oneDNN keeps gigabytes for them.
    """
    flat = labels.reshape(-1)
    positions = (flat != -100).nonzero().squeeze(1)
    num_masked = len(positions)
    positions = nn.functional.pad(positions, (0, -num_masked % ROW_MULTIPLE))
    asked = flat[positions]
    asked[num_masked:] = -100

    def select(module: nn.Module, arguments: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state.flatten(0, 1)[positions].unsqueeze(0)
        return output

    handle = model.base_model.register_forward_hook(select)  # type: ignore[union-attr]
    try:
        yield asked.unsqueeze(0)
    finally:
        handle.remove()


class MaskedTokenTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """Trainer with the model's own loss, computed on the masked positions alone."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The mean cross-entropy over the masked positions of a batch, with a live graph."""
        with masked_rows_only(self.model, inputs["labels"]) as asked:
            outputs = model(**{**inputs, "labels": asked})
        return (outputs.loss, outputs) if return_outputs else outputs.loss


class _Progress(TrainerCallback):  # type: ignore[misc]
    """Our progress line instead of Trainer's; a loss that is no number ends the training."""

    def __init__(self, advance: Callable[..., None]) -> None:
        self._advance = advance
        self._note = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._advance(1, self._note)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise CacheError(
                f"the teacher's loss is {logs['loss']} at step {state.global_step}; lower learning_rate"
            )
        self._note = f"loss {logs['loss']:.3f}"


def make_trainer(
    model: nn.Module,
    table: TokenTable,
    order: np.ndarray,
    masks: SeededMasks,
    arguments: TrainingArguments,
    advance: Callable[..., None],
) -> MaskedTokenTrainer:
    """A Trainer that goes through `order` once."""
    trainer = MaskedTokenTrainer(
        model=model,
        args=arguments,
        train_dataset=OrderedExamples(table, order),
        data_collator=masks,
        callbacks=[_Progress(advance)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def training_arguments(
    config: TeacherTrainingConfig, checkpoints: Path, device: str, has_bfloat16: bool
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
    # Trainer would split a batch over all GPUs in threads; a teacher of this size wants one.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


@torch.no_grad()
def held_out_figures(
    model: nn.Module, table: TokenTable, tokenizer: Any, config: TeacherTrainingConfig
) -> HeldOutFigures:
    """Figures on the first 1,024 held-out sentences, float32, every chosen piece hidden by the mask piece.

    The masks are the same at every call with equal arguments.
    """
    masks = SeededMasks(
        tokenizer=tokenizer,
        mlm_probability=config.mask_fraction,
        mask_replace_prob=1.0,
        random_replace_prob=0.0,
        seed=config.seed,
    )
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    by_length = np.argsort(table.lengths[:HELD_OUT_SENTENCES], kind="stable")
    num_correct, num_masked, total_nats = 0, 0, 0.0
    for first in range(0, len(by_length), HELD_OUT_BATCH):
        indices = by_length[first : first + HELD_OUT_BATCH]
        batch = {
            name: value.to(device) for name, value in masks([(int(i), table[i]) for i in indices]).items()
        }
        labels = batch.pop("labels")
        gold = labels[labels != -100]
        with masked_rows_only(model, labels):
            logits = model(**batch).logits[0, : len(gold)].float()
        num_correct += int((logits.argmax(-1) == gold).sum())
        num_masked += len(gold)
        total_nats += float(nn.functional.cross_entropy(logits, gold, reduction="sum"))
    model.train(was_training)
    return HeldOutFigures(num_correct / num_masked, math.exp(min(total_nats / num_masked, 700.0)), num_masked)
