"""The fixed order in which training sees its sentences, and their masks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import DataCollatorForLanguageModeling

from teacher_cache.teacher_training.tokens import TokenTable

POOLED_BATCHES = 100  # sentences of so many batches are sorted by length together


def training_order(lengths: np.ndarray, num_batches: int, batch_size: int, seed: int) -> np.ndarray:
    """Which sentence stands at each position of the whole training: int64 (num_batches * batch_size,).

    One seeded permutation per epoch, one behind the other; within pools of 100 batches the sentences are
    sorted by length, so that a batch holds hardly any padding, and the batches are shuffled again.
    """
    random = np.random.default_rng(seed)
    num_positions = num_batches * batch_size
    num_epochs = -(-num_positions // len(lengths))
    order = np.concatenate([random.permutation(len(lengths)) for _ in range(num_epochs)])[:num_positions]
    for first in range(0, num_positions, POOLED_BATCHES * batch_size):
        pool = order[first : first + POOLED_BATCHES * batch_size]
        batches = pool[np.argsort(lengths[pool], kind="stable")].reshape(-1, batch_size)
        order[first : first + len(pool)] = batches[random.permutation(len(batches))].reshape(-1)
    return order


class OrderedExamples(Dataset[tuple[int, np.ndarray]]):
    """The whole training as one sequence, so that a resumed run knows by counting where it stands."""

    def __init__(self, table: TokenTable, order: np.ndarray) -> None:
        self._table = table
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> tuple[int, np.ndarray]:
        """The position and int32 (L,)."""
        return position, self._table[int(self._order[position])]


class SeededMasks(DataCollatorForLanguageModeling):  # type: ignore[misc]  # transformers is untyped here
    """BERT's masking, drawn from (seed, position of the batch) alone: resuming changes no mask.

    Returns input_ids, attention_mask and labels, int64 (B, T); labels are -100 where nothing is asked.
    """

    def torch_call(self, examples: list[tuple[int, np.ndarray]]) -> dict[str, Tensor]:
        """Pad and mask one batch."""
        ids = torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(ids.astype(np.int64)) for _, ids in examples],
            batch_first=True,
            padding_value=self.tokenizer.pad_token_id,
        )
        is_special = torch.isin(ids, torch.tensor(self.tokenizer.all_special_ids))
        # Mixed by SeedSequence: neighbouring positions must not share random numbers.
        entropy = np.random.SeedSequence([int(self.seed or 0), examples[0][0]]).generate_state(1, np.uint64)
        self.generator = torch.Generator().manual_seed(int(entropy[0]))
        masked, labels = self.torch_mask_tokens(ids.clone(), special_tokens_mask=is_special)
        while not (labels != -100).any() and not is_special.all():  # a loss over nothing is NaN
            masked, labels = self.torch_mask_tokens(ids.clone(), special_tokens_mask=is_special)
        is_real = ids != self.tokenizer.pad_token_id
        return {"input_ids": masked, "attention_mask": is_real.long(), "labels": labels}
