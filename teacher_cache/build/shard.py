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
from teacher_cache.passages import DIGEST_BYTES, Passage
from teacher_cache.store.manifest import RECEIPTS, Receipt, read_receipts
from teacher_cache.store.rows import RowBlock
from teacher_cache.store.writer import CacheWriter
from teacher_cache.teacher.masked_teacher import SHOWN_CHARACTERS, MaskedTeacher
from teacher_cache.teacher.top_k import in_order


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """A shard's passages and which of their rows it holds; sent to a worker as it is.

    lengths : int64 (m,), rows of each passage     skipped_rows : of the first passage, in the shard before
    copied : folder of a published cache -> numbers of the passages whose rows it gives
    """

    building: Path
    shard: int
    num_rows: int
    passages: tuple[Passage, ...]
    lengths: np.ndarray
    skipped_rows: int
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
    place = f"{socket.gethostname()}: shard {task.shard}"
    try:
        is_scored = np.ones(len(task.passages), dtype=bool)
        for numbers in task.copied.values():
            is_scored[numbers] = False
        teacher = _teacher(task.teacher_folder, task.config.dtype, device) if is_scored.any() else None
        started = time.monotonic()  # loading a model is no part of what a shard costs
        rows = _rows_of(task, teacher, is_scored)
        writer = CacheWriter.open(task.building)
        return writer.write_shard(task.shard, rows, time.monotonic() - started, device)
    except CacheError as error:
        return ShardFailure(f"{place}: {error}")
    except Exception as error:
        first = task.passages[0].text[:SHOWN_CHARACTERS]
        reason = (str(error).splitlines() or [""])[0]
        raise RuntimeError(
            f"{place}, whose passages begin with {first!r}: {type(error).__name__} {reason}"
        ) from error


def _rows_of(task: ShardTask, teacher: MaskedTeacher | None, is_scored: np.ndarray) -> RowBlock:
    """The shard's rows in order: copies of published rows, and the teacher's for the rest."""
    place = np.arange(task.lengths.sum()) - task.skipped_rows  # of each piece, in the shard
    is_inside = (place >= 0) & (place < task.num_rows)
    passage_of_piece = np.repeat(np.arange(len(task.lengths)), task.lengths)
    blocks, places = [], []
    for folder, numbers in task.copied.items():
        digests = np.frombuffer(b"".join(task.passages[number].digest for number in numbers), np.uint8)
        is_here = np.isin(passage_of_piece, numbers)
        rows = copy_rows(folder, digests.reshape(-1, DIGEST_BYTES))
        blocks.append(rows.take(is_inside[is_here]))
        places.append(place[is_here & is_inside])
    if teacher is not None:
        torch.set_num_threads(task.threads)
        passages = [task.passages[number] for number in np.flatnonzero(is_scored)]
        is_here = is_scored[passage_of_piece]
        wanted = is_inside[is_here]
        blocks.append(teacher.score(teacher.encode(passages), wanted, task.config, task.batch_tokens))
        places.append(place[is_here & is_inside])
    return in_order(blocks, places)


@lru_cache(maxsize=1)
def _teacher(folder: Path, dtype: str, device: str) -> MaskedTeacher:
    """Loaded once in each worker process."""
    return MaskedTeacher.load(folder, dtype, device)
