"""The stage `bert2ctc train`, and its dry run: what it is given, which cache, what is recorded."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import ExperimentConfig, as_tables
from pipeline.console import Report, say
from pipeline.corpus.audio_check import silent_mp3_decoder
from pipeline.corpus.prepared import sound_preparation
from pipeline.errors import PipelineError
from pipeline.files import FILES
from pipeline.normaliser import normaliser_identity
from pipeline.paths import Roots
from pipeline.run_record import claim_run, read_record, recorded_state, write_record
from teacher_cache.common.files import file_sha256
from teacher_cache.common.sizes import MEGABYTE

if TYPE_CHECKING:
    from student.data.training_data import TrainingJob


def train_student(config: ExperimentConfig, roots: Roots, run_dir: Path, cache_reference: str) -> Report:
    """Train the student, go on where an equal run stopped, or say that it is finished.

    Where torchrun started several of these processes, the first one writes and reports for all.
    """
    from student.training.distributed import joined_ranks  # PyTorch loads only for the commands that need it
    from student.training.trainer import train
    from teacher_cache.sharing.transport import is_url

    with joined_ranks(config.student.trainer.device) as ranks:
        if not ranks.is_first:
            ranks.wait()  # until the first has claimed the folder and noted the cache that it fetched
            reference = "" if is_url(cache_reference) else cache_reference
            train(training_job(config, roots, run_dir, reference), ranks)
            raise SystemExit(0)
        job = training_job(config, roots, run_dir, cache_reference)
        cache = "" if job.cache_path is None else job.cache_path.name
        facts = {"name": config.name, "prepared": str(job.train_manifest.parent), "cache": cache}
        record = claim_run(run_dir, as_tables(config), facts | _initial_facts(config, run_dir))
        ranks.wait()
        with recorded_state(run_dir, record), silent_mp3_decoder(job.train_manifest.parent):
            result = asdict(train(job, ranks))
    write_record(run_dir, {**record, "state": "finished", "result": result})
    done = "was finished already, nothing to do" if result["already_finished"] else "finished"
    early = ", stopped early" if result["stopped_early"] else ""
    wer = "" if result["dev_wer"] is None else f", dev WER {result['dev_wer']:.2%}"
    line = f"{run_dir}: {done}: {result['steps']:,} steps in {result['seconds']:.0f} s{wer}{early}"
    return Report(
        {**result, "run": str(run_dir)}, [line, f"next: `bert2ctc evaluate {shlex.quote(str(run_dir))}`"]
    )


def plan_training(config: ExperimentConfig, roots: Roots, run_dir: Path, cache_reference: str) -> Report:
    """Parameters, memory, steps, hours and disk of the training, from a few timed steps; nothing is kept."""
    from student.training.estimate import estimate_training

    estimate = estimate_training(training_job(config, roots, run_dir, cache_reference), say)
    free_megabytes = shutil.disk_usage(_existing(run_dir)).free / MEGABYTE
    padding = f"{estimate.padding_fraction:.1%}"
    lines = [
        f"{config.name} on {estimate.device}, {estimate.precision}; {run_dir}",
        f"parameters  {estimate.parameters:,}, of which {estimate.inference_parameters:,} stay for inference",
        f"memory      {estimate.peak_memory_megabytes:,.0f} MB at its peak in {estimate.timed_steps} steps",
        f"steps       {estimate.steps:,}: {estimate.epochs:.1f} epochs, {padding} padding",
        f"time        {estimate.hours:.2f} h at {estimate.seconds_per_step:.2f} s a step "
        f"({estimate.audio_seconds_per_second:.0f} x real time); measuring dev and saving come on top",
        f"disk        {estimate.disk_megabytes:,.0f} MB of checkpoints at most "
        f"({estimate.checkpoint_megabytes:,.0f} MB each), {free_megabytes:,.0f} MB free",
    ]
    if estimate.disk_megabytes > free_megabytes:
        lines.append("warning: the checkpoints do not fit; lower trainer.keep_checkpoints or free space")
    result = {**asdict(estimate), "run": str(run_dir), "free_megabytes": free_megabytes}
    return Report(result, lines)


def training_job(config: ExperimentConfig, roots: Roots, run_dir: Path, cache_reference: str) -> TrainingJob:
    """What the trainer is given; nothing is written. Raises PipelineError where there is no cache to use."""
    from student.data.training_data import TrainingJob

    prepared = sound_preparation(config, roots)
    return TrainingJob(
        config=config.student,
        train_manifest=prepared / "train.jsonl",
        dev_manifest=prepared / "dev.jsonl" if "dev" in config.data.splits else None,
        units_model=prepared / "units.model",
        data_root=roots.data,
        cache_path=_cache_of_run(config, roots, run_dir, cache_reference),
        cache_config=config.cache,
        run_dir=run_dir,
        scratch=roots.scratch,
        normaliser=normaliser_identity(),
    )


def _initial_facts(config: ExperimentConfig, run_dir: Path) -> dict[str, Any]:
    """What a new run that fine-tunes began from: the file and its digest, since files change."""
    from student.training.run_folder import model_path

    initial = config.student.trainer.initial_checkpoint
    if not initial or read_record(run_dir) is not None:
        return {}
    if not Path(initial).exists():
        raise PipelineError(
            f"trainer.initial_checkpoint: {initial} is no run and no checkpoint; see `bert2ctc runs ls`"
        )
    path = model_path(Path(initial)).absolute()
    with FILES.faults_told(path, "name another run or checkpoint as trainer.initial_checkpoint"):
        return {"initial": {"checkpoint": str(path), "sha256": file_sha256(path)}}


def _cache_of_run(config: ExperimentConfig, roots: Roots, run_dir: Path, reference: str) -> Path | None:
    """The cache asked for, pulled first from a URL, else the run's own, else the one of the config's name."""
    if not config.student.objective.uses_branch:
        return None
    from student.training.run_cache import require_same_cache
    from teacher_cache.sharing.transport import is_url
    from teacher_cache.store import read_manifest, resolve

    started_with = (read_record(run_dir) or {}).get("cache", "")
    if is_url(reference):
        from pipeline.stages.share import fetch_for_run

        return fetch_for_run(reference, roots, run_dir, started_with)
    if not (reference or started_with) and not (roots.cache / "names" / config.name).is_file():
        raise PipelineError(
            f"no teacher cache for config {config.name!r} below {roots.cache}; "
            "make it with `bert2ctc cache build`, or name one with --cache"
        )
    path = resolve(roots.cache, reference or started_with or config.name)
    if started_with:
        require_same_cache(run_dir, started_with, path.name, read_manifest(path))
    elif not reference:
        from pipeline.stages.asked_teacher import refuse_another_teacher

        refuse_another_teacher(config, roots, read_manifest(path))
    return path


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return folder if folder.is_dir() else _existing(folder.parent)
