"""What a build would cost, from its plan and a few seconds of scoring."""

from __future__ import annotations

import math
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from teacher_cache.build.request import BuildJob, BuildRequest, Say
from teacher_cache.build.reuse import find_reusable
from teacher_cache.common.cores import num_cores
from teacher_cache.config import CacheConfig
from teacher_cache.store.layout import array_specs
from teacher_cache.teacher.masked_teacher import MaskedTeacher
from teacher_cache.teacher.tokenizer import EncodedPassages

CALIBRATION_SECONDS = 4.0
CALIBRATION_PASSAGES = 16  # scored together, as many as give batches like those of a shard
MAX_CALIBRATION_PASSAGES = 4096  # sent to each process


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPreview:
    """Figures of a build that has not run.

    bytes : of the arrays before compression     expected_seconds : of starting the workers and scoring,
    on this machine
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
    """Plan the build and score for a few seconds in as many processes as it would use; nothing is written."""
    job = BuildJob.of(request)
    covered_by = job.covering_cache(say)
    if covered_by is None:
        job.reusable = find_reusable(request.root, job.recipe, job.corpus.digests, say)
    plan = job.plan()
    layout = job.layout(plan)
    to_score = np.flatnonzero(job.source < 0) if covered_by is None else np.array([], dtype=np.int64)
    rows_to_score = int(job.lengths[to_score].sum())
    workers = min(request.num_workers, layout.num_shards)
    at_once, alike = 1, workers  # of several GPUs one is measured, and the others are alike
    if request.device == "cpu":  # more workers than cores only share them
        at_once, alike = min(workers, max(num_cores() // plan.threads, 1)), 1
    rate, ready_seconds = 0.0, 0.0
    if rows_to_score:
        chosen = job.tokens.take(to_score[:MAX_CALIBRATION_PASSAGES])
        rate, ready_seconds = _calibrate(request, chosen, at_once)
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
        rows_per_worker_second=round(rate / at_once, 1),
        expected_seconds=round(ready_seconds + rows_to_score / (rate * alike), 1) if rows_to_score else 0.0,
        covered_by=covered_by,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Calibration:
    """A few seconds of one worker's work; sent to a process as it is."""

    teacher_folder: Path
    config: CacheConfig
    tokens: EncodedPassages
    device: str
    threads: int
    batch_tokens: int


def _calibrate(request: BuildRequest, tokens: EncodedPassages, at_once: int) -> tuple[float, float]:
    """Rows a second of `at_once` workers together, and the seconds until they are ready.

    They run at the same time, as in a build: processes that share a memory and a clock slow each other.
    """
    calibration = _Calibration(
        teacher_folder=request.teacher_folder.resolve(),
        config=request.cache_config,
        tokens=tokens,
        device=request.device,
        threads=request.build_config.threads_per_worker,
        batch_tokens=request.build_config.batch_tokens,
    )
    started = time.monotonic()
    with ProcessPoolExecutor(at_once, mp_context=get_context("spawn")) as pool:
        measured = list(pool.map(_rows_and_seconds, [calibration] * at_once))
    scoring = max(seconds for _, seconds in measured)
    return sum(rows / seconds for rows, seconds in measured), time.monotonic() - started - scoring


def _rows_and_seconds(work: _Calibration) -> tuple[int, float]:
    """Rows scored, and in which time, over passages in digest order, which is a random one."""
    torch.set_num_threads(work.threads)
    teacher = MaskedTeacher.load(work.teacher_folder, work.config.dtype, work.device)
    done, started, is_warm = 0, time.monotonic(), False
    count = len(work.tokens)
    for first in range(0, count, CALIBRATION_PASSAGES):
        tokens = work.tokens.take(np.arange(first, min(first + CALIBRATION_PASSAGES, count)))
        wanted = np.ones(int(tokens.own_length.sum()), dtype=bool)
        teacher.score(tokens, wanted, work.config, work.batch_tokens)
        if not is_warm and count > CALIBRATION_PASSAGES:
            is_warm, started = True, time.monotonic()  # the first call pays for what no later one does
            continue
        done += len(wanted)
        if time.monotonic() - started > CALIBRATION_SECONDS:
            break
    return done, max(time.monotonic() - started, 1e-9)
