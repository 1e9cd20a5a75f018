"""Builds a teacher cache on Dask, one task per shard; with `cluster` the only user of Dask.

The truth about what is done are the receipts on the disk, never the scheduler.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Future, as_completed, get_worker
from distributed.scheduler import KilledWorker

from teacher_cache.build.cluster import connected, package_versions
from teacher_cache.build.plan import BuildPlan
from teacher_cache.build.quality import quality_figures
from teacher_cache.build.request import BuildJob, BuildRequest, Say
from teacher_cache.build.reuse import find_reusable
from teacher_cache.build.shard import ShardFailure, ShardTask, build_shard
from teacher_cache.common.lock import BuildLock
from teacher_cache.common.progress import progress
from teacher_cache.common.terminal import say as say_to_people
from teacher_cache.errors import CacheError
from teacher_cache.store.arrays import CacheArrays
from teacher_cache.store.checked_cache import special_pieces
from teacher_cache.store.layout import ROW_ARRAYS
from teacher_cache.store.manifest import Receipt, read_manifest, read_receipts, remove_receipt
from teacher_cache.store.root import lock_path, names_by_meaning, write_name
from teacher_cache.store.rows import decode
from teacher_cache.store.verify import shard_fault
from teacher_cache.store.writer import CacheWriter, publish

RETRIES = 2
TASKS_PER_WORKER = 2  # one runs while the next one's passages are already there


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """A published cache. rows_scored and rows_reused count this run; reused: nothing was built at all."""

    path: Path
    fingerprint: str
    rows_scored: int
    rows_reused: int
    seconds: float
    reused: bool
    quality: dict[str, Any]


def build_cache(request: BuildRequest, say: Say = say_to_people) -> BuildResult:
    """Label every passage of the request once, publish the cache, and let the request's name mean it.

    A build that was interrupted goes on from its receipts; where a published cache of the same recipe
    covers every passage, nothing is built. Raises CacheError; what is finished stays for the next run.
    """
    started = time.monotonic()
    job = BuildJob.of(request)
    if job.identity.normaliser and job.identity.normaliser != dict(request.normaliser):
        say(f"teacher {job.identity.name} was trained on text of another normaliser than the transcripts'")
    covering = job.covering_cache(say)
    if covering is None:
        with BuildLock(lock_path(request.root, job.fingerprint), say):
            covering = job.covering_cache(say)  # published while this process waited for its turn
            if covering is None:
                return _build(job, started, say)
    _name(request, covering.name)
    say(f"cache {covering.name} holds every passage already; nothing to build")
    manifest = read_manifest(covering)
    return BuildResult(
        path=covering,
        fingerprint=manifest.fingerprint,
        rows_scored=0,
        rows_reused=int(manifest.layout.num_rows),
        seconds=time.monotonic() - started,
        reused=True,
        quality=manifest.quality,
    )


def _build(job: BuildJob, started: float, say: Say) -> BuildResult:
    plan = _begin(job, say)
    done = _sound_receipts(job.building, say)
    layout = job.layout(plan)
    if done:
        say(f"going on: {len(done)} of {layout.num_shards} shards are finished")
    pending = [shard for shard in range(layout.num_shards) if shard not in done]
    is_copied = np.repeat(job.source >= 0, job.lengths)
    copied = sum(int(is_copied[layout.shard_rows(shard)].sum()) for shard in pending)
    rows = sum(rows.stop - rows.start for rows in map(layout.shard_rows, pending))
    if pending:
        _run(job, plan, pending, say)
    blocks = _blocks(job.building, layout.num_shards)
    quality = quality_figures(
        blocks, job.lengths, job.tokenizer.unknown_id, lambda number: _described(job, number)
    )
    receipts = read_receipts(job.building)
    worker_seconds = sum(receipt.seconds for receipt in receipts.values())
    manifest = replace(
        job.manifest(layout),
        quality=quality,
        build={
            "splits": list(job.request.entries),
            "rows_copied": int(is_copied.sum()),
            "worker_seconds": round(worker_seconds, 3),
            "rows_per_worker_second": round(plan.num_rows / max(worker_seconds, 1e-9), 1),
            "threads": plan.threads,
            "batch_tokens": plan.batch_tokens,
            "device_type": plan.device_type,
            "versions": package_versions(),
        },
    )
    path = publish(job.building, job.request.root, manifest)
    _name(job.request, job.fingerprint)
    return BuildResult(
        path=path,
        fingerprint=job.fingerprint,
        rows_scored=rows - copied,
        rows_reused=copied,
        seconds=time.monotonic() - started,
        reused=False,
        quality=quality,
    )


def _begin(job: BuildJob, say: Say) -> BuildPlan:
    """Adopt the plan on the disk or write one; make sure that the arrays stand."""
    job.reusable = find_reusable(job.request.root, job.recipe, job.corpus.digests, say)
    fresh, plan = job.plan(), BuildPlan.read(job.building)
    writer = None
    if plan is not None:
        if (plan.num_rows, plan.num_passages) != (fresh.num_rows, fresh.num_passages):
            raise CacheError(
                f"{job.building}: planned for {plan.num_rows:,} rows of {plan.num_passages:,} passages, not "
                f"{fresh.num_rows:,} of {fresh.num_passages:,}; remove it and rerun `bert2ctc cache build`"
            )
        differences = fresh.differences(plan)
        if differences:
            say(f"the interrupted build's plan holds: {', '.join(differences)}")
        job.reusable = [held for held in job.reusable if held.path.name in plan.reused]
        writer = _opened(job.building)
    if plan is None or writer is None:  # killed before its arrays stood, or never begun
        shutil.rmtree(job.building, ignore_errors=True)
        plan = plan or fresh
        plan.write(job.building)
        writer = CacheWriter.create(job.building, job.layout(plan))
    writer.write_passages(job.starts, job.lengths, job.corpus.digests)
    writer.write_vocabulary(job.tokenizer.vocabulary, job.is_unranked)
    return plan


def _opened(building: Path) -> CacheWriter | None:
    if read_receipts(building):
        return CacheWriter.open(building)  # an error here is reported: finished shards are not thrown away
    try:
        return CacheWriter.open(building)
    except CacheError:
        return None


def _sound_receipts(building: Path, say: Say) -> dict[int, Receipt]:
    """Receipts whose rows are what they vouch for; the others are taken away and built again."""
    arrays, sound = CacheArrays(building), {}
    is_special = special_pieces(arrays)
    for shard, receipt in read_receipts(building).items():
        fault = shard_fault(arrays, receipt, is_special)
        if fault:
            say(f"built again: {fault}")
            remove_receipt(building, shard)
        else:
            sound[shard] = receipt
    return sound


def _run(job: BuildJob, plan: BuildPlan, pending: list[int], say: Say) -> None:
    """Build the pending shards; returns when each has its receipt."""
    layout, device = job.layout(plan), job.request.device
    rows_of = {shard: layout.shard_rows(shard) for shard in pending}
    num_rows = sum(rows.stop - rows.start for rows in rows_of.values())
    num_done = 0
    try:
        num_workers = min(job.request.num_workers, len(pending))
        with (
            connected(job.request.scheduler, num_workers) as client,
            progress("scoring", num_rows, "rows") as advance,
        ):
            say(f"{num_rows:,} rows in {len(pending)} shards; dashboard {client.dashboard_link}")
            waiting = (
                client.submit(_on_worker, job.task(plan, shard), device, pure=False, retries=RETRIES)
                for shard in pending
            )
            running = as_completed(islice(waiting, TASKS_PER_WORKER * max(len(client.ncores()), 1)))
            for future in running:
                receipt = _receipt_of(future)
                num_done += 1
                advance(receipt.rows, note=f"shard {receipt.shard}")
                running.update(islice(waiting, 1))
                del future  # dropped, so that the scheduler forgets it
    except KeyboardInterrupt:
        say(f"interrupted: {num_done} of {len(pending)} shards were finished; run it again to go on")
        raise


def _receipt_of(future: Future) -> Receipt:
    error = future.exception()
    if isinstance(error, KilledWorker):
        raise CacheError(
            f"a worker died {error.allowed_failures + 1} times over one shard, likely for lack of memory; "
            "lower workers or batch_tokens under [build] and run it again, finished shards are kept"
        )
    if error is not None:
        raise CacheError(f"{error}; run it again, finished shards are kept") from error
    result = future.result()
    if isinstance(result, ShardFailure):
        raise CacheError(result.message)
    receipt: Receipt = result
    return receipt


def _on_worker(task: ShardTask, device: str) -> Receipt | ShardFailure:
    """Runs on a worker; of several GPUs each worker takes the one of its number."""
    if device == "cuda":
        import torch

        name = get_worker().name
        device = f"cuda:{name % torch.cuda.device_count()}" if isinstance(name, int) else "cuda:0"
    return build_shard(task, device)


def _blocks(building: Path, num_shards: int) -> Iterator[Any]:
    arrays = CacheArrays(building)
    for shard in range(num_shards):
        rows = arrays.layout.shard_rows(shard)
        yield decode({name: arrays.read(name, rows) for name in ROW_ARRAYS})


def _described(job: BuildJob, number: int) -> dict[str, Any]:
    return {"utterance": job.corpus.utterances[number], "text": job.corpus.passages[number].text}


def _name(request: BuildRequest, meaning: str) -> None:
    """Left alone where it is right already, so that a cache on a read-only mount can be used."""
    if request.name not in names_by_meaning(request.root).get(meaning, []):
        write_name(request.root, request.name, meaning)
