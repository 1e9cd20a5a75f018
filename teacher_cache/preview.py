"""What a build would cost, from its plan and a few seconds of scoring."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from teacher_cache.job import BuildJob, BuildRequest, Say, num_cores
from teacher_cache.layout import array_specs
from teacher_cache.masked_teacher import MaskedTeacher
from teacher_cache.reuse import find_reusable

CALIBRATION_SECONDS = 4.0
CALIBRATION_PASSAGES = 16  # scored together, as many as give batches like those of a shard


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPreview:
    """Figures of a build that has not run.

    bytes : of the arrays before compression     expected_seconds : of scoring, on this machine
    covered_by : the published cache that holds every passage, if any; then there is nothing to do
    """

    fingerprint: str
    passages: int
    rows: int
    rows_to_score: int
    shards: int
    workers: int
    bytes: int
    rows_per_worker_second: float
    expected_seconds: float
    covered_by: Path | None


def preview_build(request: BuildRequest, say: Say = lambda line: None) -> BuildPreview:
    """Plan the build and score for a few seconds in this process; nothing is written."""
    job = BuildJob.of(request)
    covered_by = job.covering_cache(say)
    if covered_by is None:
        job.reusable = find_reusable(request.root, job.recipe, job.corpus.digests, say)
    plan = job.plan()
    layout = job.layout(plan)
    to_score = np.flatnonzero(job.source < 0) if covered_by is None else np.array([], dtype=np.int64)
    rows_to_score = int(job.lengths[to_score].sum())
    workers = min(request.num_workers, layout.num_shards)
    rate = _rows_per_second(job, to_score) if rows_to_score else 0.0
    at_once = workers
    if request.device == "cpu":  # more workers than cores only share them
        at_once = min(workers, max(num_cores() // plan.threads, 1))
    num_bytes = sum(
        math.prod(spec.shape) * np.dtype(spec.dtype).itemsize for spec in array_specs(layout).values()
    )
    return BuildPreview(
        fingerprint=job.fingerprint,
        passages=layout.num_passages,
        rows=layout.num_rows,
        rows_to_score=rows_to_score,
        shards=layout.num_shards,
        workers=workers,
        bytes=num_bytes,
        rows_per_worker_second=round(rate, 1),
        expected_seconds=round(rows_to_score / (rate * at_once), 1) if rows_to_score else 0.0,
        covered_by=covered_by,
    )


def _rows_per_second(job: BuildJob, numbers: np.ndarray) -> float:
    """Rows a second of one worker, over passages in digest order, which is a random one."""
    request = job.request
    threads_before = torch.get_num_threads()
    torch.set_num_threads(request.build_config.threads_per_worker)
    try:
        teacher = MaskedTeacher.load(request.teacher_folder, request.cache_config.dtype, request.device)
        done, started, is_warm = 0, time.monotonic(), False
        for first in range(0, len(numbers), CALIBRATION_PASSAGES):
            chosen = numbers[first : first + CALIBRATION_PASSAGES]
            encoded = teacher.encode([job.corpus.passages[number] for number in chosen])
            wanted = np.ones(sum(passage.own_length for passage in encoded), dtype=bool)
            teacher.score(encoded, wanted, request.cache_config, request.build_config.batch_tokens)
            if not is_warm and len(numbers) > CALIBRATION_PASSAGES:
                is_warm, started = True, time.monotonic()  # the first call pays for what no later one does
                continue
            done += len(wanted)
            if time.monotonic() - started > CALIBRATION_SECONDS:
                break
        return done / max(time.monotonic() - started, 1e-9)
    finally:
        torch.set_num_threads(threads_before)
