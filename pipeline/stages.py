"""One readable function per stage of the road: from a config to what the stage leaves on disk."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.cache_stages import resolve_cache
from pipeline.config import ExperimentConfig, as_tables
from pipeline.console import Report, say, table
from pipeline.errors import PipelineError
from pipeline.roots import Roots
from pipeline.run_record import claim_run, provenance, read_record, write_record
from pipeline.text import normaliser_identity
from teacher_cache.schema import canonical_json


def prepared_folder(config: ExperimentConfig, roots: Roots) -> Path:
    """Where manifests and units of this [data] table lie; equal tables share them, whatever the config is called."""
    lists = {
        name: hashlib.sha256((config.folder / split.ids).read_bytes()).hexdigest()
        for name, split in config.data.splits.items()
        if split.ids
    }
    facts = canonical_json({"data": as_tables(config)["data"], "lists": lists, "normaliser": normaliser_identity()})
    return roots.runs / "prepared" / f"{config.data.corpus or 'manifests'}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"


def teacher_folder(config: ExperimentConfig, roots: Roots) -> Path:
    """The folder of the teacher that this config trains."""
    return roots.runs / "teachers" / config.teacher.name


def train_student(config: ExperimentConfig, roots: Roots, run_dir: Path, cache_reference: str) -> Report:
    """Train the student, go on where an equal run stopped, or say that it is finished."""
    prepared = prepared_folder(config, roots)
    known = read_record(run_dir) or {}
    needs_cache = config.student.objective.uses_attention
    cache = resolve_cache(cache_reference or known.get("cache", ""), config, roots) if needs_cache else None
    record = claim_run(
        run_dir,
        as_tables(config),
        {"name": config.name, "prepared": str(prepared), "cache": "" if cache is None else cache.name},
    )
    from student.trainer import TrainingJob, train  # torch loads only for the command that needs it

    job = TrainingJob(
        config=config.student,
        train_manifest=prepared / "train.jsonl",
        dev_manifest=prepared / "dev.jsonl" if "dev" in config.data.splits else None,
        units_model=prepared / "units.model",
        data_root=roots.data,
        cache_path=cache,
        cache_config=config.cache,
        run_dir=run_dir,
    )
    result = train(job)
    write_record(run_dir, {**record, "state": "finished", "result": asdict(result)})
    return Report(asdict(result), [f"finished at step {result.steps:,}: {run_dir}"])
