"""A causal network over units is trained by transformers' Trainer; a killed training goes on."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PrinterCallback, Trainer

from pipeline.errors import PipelineError
from pipeline.language_model.network_scorer import EDGE
from pipeline.language_model.ngram_perplexity import Perplexity
from pipeline.language_model.settings import LanguageModelConfig
from teacher_cache.common.files import canonical_json
from teacher_cache.common.lock import BuildLock
from teacher_cache.common.perplexity import perplexity
from teacher_cache.common.progress import progress
from teacher_cache.teacher_training.examples import OrderedExamples, training_order
from teacher_cache.teacher_training.tokens import TokenTable
from teacher_cache.teacher_training.transformers_trainer import (
    ProgressLine,
    last_checkpoint,
    training_arguments,
)

IGNORED = -100  # a label that asks nothing
MEASURED_BATCH = 64


@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """A trained network, and how it went. resumed_step : 0 where the training ran in one go"""

    model: Any
    seconds: float
    tokens_per_second: float
    resumed_step: int


def make_network(config: LanguageModelConfig, num_units: int) -> Any:
    """A GPT-2 with seeded random weights; its vocabulary is the student's outputs, 0 the sentence's edge."""
    torch.manual_seed(config.seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=num_units,
            n_positions=config.max_positions,
            n_embd=config.hidden_dim,
            n_layer=config.num_layers,
            n_head=config.num_heads,
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=0.0,
            bos_token_id=EDGE,
            eos_token_id=EDGE,
        )
    )


def token_table(spelt: Sequence[Sequence[int]], max_positions: int) -> TokenTable:
    """Sentences as a network reads them, an edge before and behind; longer ones are cut at the end."""
    rows = [np.array([EDGE, *ids, EDGE], dtype=np.int32)[: max_positions + 1] for ids in spelt]
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    ids = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int32)
    return TokenTable(ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def network_batch(rows: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """input_ids, attention_mask and labels, int64 (B, T): each asks for the token behind it."""
    tokens = torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(row.astype(np.int64)) for row in rows], batch_first=True, padding_value=IGNORED
    )
    labels, inputs = tokens[:, 1:], tokens[:, :-1]
    return {
        "input_ids": inputs.clamp(min=EDGE),
        "attention_mask": (labels != IGNORED).long(),
        "labels": labels,
    }


class _CausalTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """Trainer with the mean cross-entropy of `network_batch`, whose labels are shifted already."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of a batch, with a live graph."""
        labels = inputs.pop("labels")
        outputs = model(**inputs, use_cache=False)
        loss = torch.nn.functional.cross_entropy(
            outputs.logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED
        )
        return (loss, outputs) if return_outputs else loss


def _refusal(loss: float, step: int) -> PipelineError:
    return PipelineError(f"the network's loss is {loss} at step {step}; lower language_model.learning_rate")


def train_network(
    table: TokenTable, config: LanguageModelConfig, num_units: int, scratch: Path, device: str
) -> TrainedNetwork:
    """Train, or go on from the last checkpoint in `scratch`, which only an equal training may have.

    Raises CacheError where another process trains there.
    """
    order = training_order(table.lengths, config.max_steps, config.batch_size, config.seed)
    model, checkpoints = make_network(config, num_units).to(device), scratch / "checkpoints"
    has_bfloat16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    with BuildLock(scratch / "lock"), progress("training network", config.max_steps, "steps") as advance:
        checkpoint, resumed_step = last_checkpoint(checkpoints)
        trainer = _CausalTrainer(
            model=model,
            args=training_arguments(config, checkpoints, device, has_bfloat16),
            train_dataset=OrderedExamples(table, order),
            data_collator=lambda examples: network_batch([row for _, row in examples]),
            callbacks=[ProgressLine(advance, _refusal)],
        )
        trainer.remove_callback(PrinterCallback)
        started = time.monotonic()
        trainer.train(resume_from_checkpoint=checkpoint)
        seconds = time.monotonic() - started
    num_tokens = int(table.lengths[order[resumed_step * config.batch_size :]].sum())
    return TrainedNetwork(model.eval(), seconds, num_tokens / max(seconds, 1e-3), resumed_step)


def scratch_of(folder: Path, recipe: dict[str, Any]) -> Path:
    """Where a training with this recipe keeps its checkpoints, below a scratch folder."""
    return folder / hashlib.sha256(canonical_json(recipe).encode()).hexdigest()[:16]


def forget(scratch: Path) -> None:
    """Remove the checkpoints of a training whose network is published."""
    shutil.rmtree(scratch, ignore_errors=True)


@torch.inference_mode()
def network_perplexity(model: Any, table: TokenTable, num_words: int) -> Perplexity | None:
    """Figures on sentences; None where there is none. num_words : spoken words of them"""
    if not len(table):
        return None
    device = next(model.parameters()).device
    total, num_tokens = 0.0, 0
    by_length = np.argsort(table.lengths, kind="stable")
    for first in range(0, len(by_length), MEASURED_BATCH):
        rows = [table[int(index)] for index in by_length[first : first + MEASURED_BATCH]]
        batch = {name: value.to(device) for name, value in network_batch(rows).items()}
        labels = batch.pop("labels").flatten()
        logits = model(**batch, use_cache=False).logits.flatten(0, 1).float()
        total += float(
            torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
        )
        num_tokens += int((labels != IGNORED).sum())
    return Perplexity(perplexity(total / num_tokens), num_tokens, 0, total / max(num_words, 1))
