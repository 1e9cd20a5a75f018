"""The stages of `bert2ctc cache ...`: build, list, describe, verify, remove."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.config import ExperimentConfig, load_config
from pipeline.console import Report, say, table
from pipeline.corpus.prepared import sound_preparation
from pipeline.errors import PipelineError
from pipeline.normaliser import normaliser_identity
from pipeline.paths import Roots
from pipeline.report.facts_table import facts_tables
from pipeline.report.quality_plot import plot_mass
from student.data.manifest import read_manifest
from teacher_cache import store
from teacher_cache.common.progress import progress
from teacher_cache.common.sizes import MEGABYTE
from teacher_cache.passages import passages_of

_MASS_AT = ("1", "4", "8", "16", "32", "64")


def build_teacher_cache(
    config: ExperimentConfig, roots: Roots, dry_run: bool, scheduler: str, name: str = ""
) -> Report:
    """Score every token of the config's splits once, or name the published cache that covers them.

    name : what will mean the cache, "" for the config's own name; checked before any work
    """
    store.require_name(name or config.name)
    from pipeline.stages.asked_teacher import asked_sha256, asked_teacher_folder
    from student.training.device import choose_device
    from teacher_cache.build.estimate import preview_build
    from teacher_cache.build.quality import quality_lines
    from teacher_cache.build.request import BuildRequest
    from teacher_cache.build.run import build_cache

    prepared = sound_preparation(config, roots)
    request = BuildRequest(
        entries={name: read_manifest(prepared / f"{name}.jsonl") for name in config.labelled_splits},
        teacher_folder=asked_teacher_folder(config, roots),
        teacher_request_sha256=asked_sha256(config),
        cache_config=config.cache,
        build_config=config.build,
        root=roots.cache,
        name=name or config.name,
        normaliser=normaliser_identity(),
        device=choose_device(config.student.trainer.device).type,
        scheduler=scheduler,
    )
    if dry_run:
        preview = asdict(preview_build(request, say))
        preview["covered_by"] = preview["covered_by"] and str(preview["covered_by"])
        return Report(preview, facts_tables(preview))
    result = build_cache(request, say)
    facts = {**asdict(result), "path": str(result.path), "is_reused": result.reused}
    done = f"{result.rows_scored:,} rows scored, {result.rows_reused:,} reused in {result.seconds:.0f} s"
    return Report(facts, [*quality_lines(result.quality), f"{result.path}: {done}"])


def list_teacher_caches(roots: Roots) -> Report:
    """The published caches, damaged ones with their fault."""
    entries = store.list_caches(roots.cache)
    rows, found = [], []
    for entry in entries:
        layout = entry.manifest.layout if entry.manifest else None
        rows.append(
            [
                entry.fingerprint,
                ", ".join(entry.names) or "-",
                entry.manifest.teacher.name if entry.manifest else entry.fault,
                f"{layout.num_rows:,}" if layout else "?",
                f"{layout.top_k}" if layout else "?",
                f"{entry.num_bytes / MEGABYTE:,.1f}",
            ]
        )
        facts = {"fingerprint": entry.fingerprint, "names": list(entry.names), "bytes": entry.num_bytes}
        found.append({**facts, "fault": entry.fault})
    damaged = store.damaged_names(roots.cache)
    lines: list[Any] = [table("", ["fingerprint", "names", "teacher", "rows", "K", "MB"], rows)]
    if not rows:
        lines = [f"no cache below {roots.cache}; make one with `bert2ctc cache build`"]
    return Report({"caches": found, "damaged_names": damaged}, [*lines, *damaged])


def describe_cache(reference: str, roots: Roots, plot: Path | None = None) -> Report:
    """What one cache holds; `plot` names an image file for the mass kept over K."""
    described = store.describe(store.resolve(roots.cache, reference))
    lines = facts_tables(described)
    if plot is not None:
        plot_mass(described["quality"], described["fingerprint"], plot)
        lines = [*lines, f"plot: {plot}"]
    return Report(described, lines)


def verify_teacher_cache(
    reference: str, roots: Roots, recompute: str | None = None, config_name: str = ""
) -> Report:
    """Every fault of a cache; none is a good answer.

    recompute : share of the config's passages to score again with its teacher, "0.1%" or "0.001"
    config_name : that config; "" for the one that the reference names
    """
    from teacher_cache.store.verify import verify_cache

    path = store.resolve(roots.cache, reference)
    config = None if recompute is None else _config_of(reference, config_name)
    share = None if recompute is None else _share(recompute)
    started = time.monotonic()
    with progress("verifying", total=store.read_manifest(path).layout.num_shards, unit="shards") as advance:
        faults = verify_cache(path, progress=advance)
    lines = faults or [f"{path}: every row, table and receipt is as it was written"]
    result: dict[str, Any] = {"path": str(path), "faults": faults}
    if config is not None and share is not None and not faults:
        result["recomputed"], line = _recomputed(path, config, roots, share)
        result["faults"] = list(result["recomputed"]["faults"])
        lines = [*lines, *result["faults"], line]
    return Report(result | {"seconds": time.monotonic() - started}, lines)


def _recomputed(
    path: Path, config: ExperimentConfig, roots: Roots, share: float
) -> tuple[dict[str, Any], str]:
    from pipeline.stages.asked_teacher import asked_teacher_folder
    from student.training.device import choose_device
    from teacher_cache.build.recompute import recompute_cache

    prepared = sound_preparation(config, roots)
    splits = [read_manifest(prepared / f"{name}.jsonl") for name in config.labelled_splits]
    passages = [passage for entries in splits for passage in passages_of(entries, config.cache)]
    device = choose_device(config.student.trainer.device).type
    report = recompute_cache(path, asked_teacher_folder(config, roots), passages, share, device=device)
    line = (
        f"{report.passages:,} passages ({report.rows:,} rows) scored again: the largest error of a "
        f"log-probability is {report.largest_error:.1e}, {report.allowed:.1e} is allowed"
    )
    return asdict(report), line


def _config_of(reference: str, config_name: str) -> ExperimentConfig:
    try:
        return load_config(config_name or reference)
    except PipelineError as error:
        if config_name:
            raise
        raise PipelineError(f"{error}; whose texts and teacher are meant is said with --config") from None


def _share(text: str) -> float:
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise PipelineError(f"--recompute {text!r} is no share; try --recompute 0.1%") from None


def remove_teacher_cache(fingerprint: str, roots: Roots) -> Report:
    """Delete one published cache."""
    path = store.remove_cache(roots.cache, fingerprint)
    return Report({"removed": str(path)}, [f"removed {path}"])


def collect_cache_garbage(roots: Roots, delete: bool) -> Report:
    """Leftovers of dead builds, listed or deleted."""
    paths = [str(path) for path in store.collect_garbage(roots.cache, delete)]
    lines = [f"{'deleted' if delete else 'leftover'} {path}" for path in paths] or ["no leftovers"]
    if paths and not delete:
        lines.append("delete them with `bert2ctc cache gc --yes`")
    return Report({"leftovers": paths, "deleted": delete}, lines)
