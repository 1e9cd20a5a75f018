"""transformers' Trainer for masked tokens: only masked positions reach the vocabulary projection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainingArguments

from teacher_cache.common.perplexity import perplexity
from teacher_cache.config import TeacherTrainingConfig
from teacher_cache.errors import CacheError
from teacher_cache.teacher_training.examples import OrderedExamples, SeededMasks
from teacher_cache.teacher_training.request import HELD_OUT_SENTENCES, HeldOutFigures
from teacher_cache.teacher_training.tokens import TokenTable
from teacher_cache.teacher_training.transformers_trainer import ProgressLine

HELD_OUT_BATCH = 64
ROW_MULTIPLE = 64


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


def _refusal(loss: float, step: int) -> CacheError:
    return CacheError(f"the teacher's loss is {loss} at step {step}; lower learning_rate")


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
        callbacks=[ProgressLine(advance, _refusal)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


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
    return HeldOutFigures(num_correct / num_masked, perplexity(total_nats / num_masked), num_masked)
