"""One shard from passages to receipt: what a worker does, whatever sends it."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from teacher_cache.build.reuse import copy_rows
from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.store.manifest import RECEIPTS, Receipt, read_receipts
from teacher_cache.store.rows import RowBlock
from teacher_cache.store.writer import CacheWriter
from teacher_cache.teacher.masked_teacher import MaskedTeacher
from teacher_cache.teacher.tokenizer import SHOWN_CHARACTERS, EncodedPassages
from teacher_cache.teacher.top_k import in_order


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """A shard's m passages and which of their rows it holds; sent to a worker as it is.

    first_text : of the first passage, for messages     digests : uint8 (m, 16)
    lengths : int64 (m,), rows of each passage     skipped_rows : of the first passage, in the shard before
    tokens : of the passages that the teacher scores
    copied : folder of a published cache -> numbers of the passages whose rows it gives, all the others
    """

    building: Path
    shard: int
    num_rows: int
    first_text: str
    digests: np.ndarray
    lengths: np.ndarray
    skipped_rows: int
    tokens: EncodedPassages
    teacher_folder: Path
    config: CacheConfig
    batch_tokens: int
    threads: int
    copied: Mapping[Path, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ShardFailure:
    """Why a shard cannot be built, in one line; trying again would not help."""

    message: str


def build_shard(task: ShardTask, device: str) -> Receipt | ShardFailure:
    """Score or copy the rows of one shard, write them whole, and return the receipt.

    A shard that has its receipt already is left alone: a scheduler may ask again for what a lost worker
    had finished.
    """
    if (task.building / RECEIPTS / f"{task.shard}.json").is_file():
        return read_receipts(task.building)[task.shard]
    where = f"{socket.gethostname()}: shard {task.shard}"
    try:
        teacher = _teacher(task.teacher_folder, task.config.dtype, device) if len(task.tokens) else None
        started = time.monotonic()  # loading a model is no part of what a shard costs
        rows = _rows_of(task, teacher)
        writer = CacheWriter.open(task.building)
        return writer.write_shard(task.shard, rows, time.monotonic() - started, device)
    except CacheError as error:
        return ShardFailure(f"{where}: {error}")
    except Exception as error:
        first = task.first_text[:SHOWN_CHARACTERS]
        reason = (str(error).splitlines() or [""])[0]
        raise RuntimeError(
            f"{where}, whose passages begin with {first!r}: {type(error).__name__} {reason}"
        ) from error


def _rows_of(task: ShardTask, teacher: MaskedTeacher | None) -> RowBlock:
    """The shard's rows in order: copies of published rows, and the teacher's for the rest."""
    row = np.arange(task.lengths.sum()) - task.skipped_rows  # of each piece, within the shard
    is_inside = (row >= 0) & (row < task.num_rows)
    passage_of_piece = np.repeat(np.arange(len(task.lengths)), task.lengths)
    is_scored = np.ones(len(row), dtype=bool)
    blocks, rows = [], []
    for folder, numbers in task.copied.items():
        is_copied = np.isin(passage_of_piece, numbers)
        is_scored &= ~is_copied
        blocks.append(copy_rows(folder, task.digests[numbers]).take(is_inside[is_copied]))
        rows.append(row[is_copied & is_inside])
    if teacher is not None:
        torch.set_num_threads(task.threads)
        blocks.append(teacher.score(task.tokens, is_inside[is_scored], task.config, task.batch_tokens))
        rows.append(row[is_scored & is_inside])
    return in_order(blocks, rows)


@lru_cache(maxsize=1)
def _teacher(folder: Path, dtype: str, device: str) -> MaskedTeacher:
    """Loaded once in each worker process."""
    return MaskedTeacher.load(folder, dtype, device)
