"""One readable function per stage of the road: from a config to what the stage leaves on disk."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import ExperimentConfig, as_tables
from pipeline.console import Report, say, table
from pipeline.corpus.audio_check import silent_decoders
from pipeline.errors import PipelineError
from pipeline.normaliser import normaliser_identity
from pipeline.paths import Roots
from pipeline.run_record import claim_run, read_record, write_record
from pipeline.run_state import recorded_state
from teacher_cache.store.manifest import Manifest, canonical_json

if TYPE_CHECKING:
    from student.data.training_data import TrainingJob


def prepared_folder(config: ExperimentConfig, roots: Roots) -> Path:
    """Where manifests and units of this [data] table lie; equal tables share them under any config's name."""
    data = {key: value for key, value in as_tables(config)["data"].items() if key != "download"}
    lists = {
        name: hashlib.sha256((config.folder / split.ids).read_bytes()).hexdigest()
        for name, split in config.data.splits.items()
        if split.ids and (config.folder / split.ids).is_file()
    }
    facts = canonical_json({"data": data, "lists": lists, "normaliser": normaliser_identity()})
    digest = hashlib.sha256(facts.encode()).hexdigest()[:8]
    return roots.runs / "prepared" / f"{Path(config.data.corpus).name or 'manifests'}-{digest}"


def make_demo_corpus(config: ExperimentConfig, roots: Roots) -> Report:
    """Speak the synthetic corpus of the config below the data root, unless an equal one is there."""
    from pipeline.demo.corpus import make_corpus

    if config.demo_corpus is None:
        raise PipelineError(
            f"config {config.name!r} has no [demo_corpus]; use `bert2ctc data download --config`"
        )
    started = time.monotonic()
    made = make_corpus(config.demo_corpus, roots.data / config.data.corpus)
    seconds = time.monotonic() - started
    result = {**made.summary, "path": str(made.path), "is_reused": made.is_reused, "seconds": seconds}
    return Report(result, [made.told()])


def prepare_data(config: ExperimentConfig, roots: Roots, leave_out_bad: bool) -> Report:
    """Validate the corpus, write manifests, train the units; nothing is done twice."""
    from pipeline.corpus.prepare import prepare

    started = time.monotonic()
    prepared = prepare(config, roots.data, prepared_folder(config, roots), leave_out_bad)
    rows = [
        [
            name,
            f"{facts['utterances']:,}",
            f"{facts['hours']:.2f}",
            f"{facts['words']:,}",
            f"{facts['speakers']:,}",
        ]
        for name, facts in prepared.splits.items()
    ]
    reused = "already prepared, nothing to do" if prepared.is_reused else "prepared"
    lines: list[Any] = [
        table("", ["split", "utterances", "hours", "words", "speakers"], rows),
        f"{prepared.num_units} CTC units; {reused}: {prepared.path}",
        *(f"left out: {count} {reason}" for reason, count in prepared.left_out.items()),
        *(f"warning: {warning}" for warning in prepared.warnings),
    ]
    result = {**asdict(prepared), "path": str(prepared.path), "seconds": time.monotonic() - started}
    return Report(result, lines)


def train_student(config: ExperimentConfig, roots: Roots, run_dir: Path, cache_reference: str) -> Report:
    """Train the student, go on where an equal run stopped, or say that it is finished.

    Where torchrun started several of these processes, the first one writes and tells for all.
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
        with recorded_state(run_dir, record), _quiet_for(job.train_manifest.parent):
            result = asdict(train(job, ranks))
    write_record(run_dir, {**record, "state": "finished", "result": result})
    done = "was finished already, nothing to do" if result["already_finished"] else "finished"
    early = ", stopped early" if result["stopped_early"] else ""
    wer = "" if result["dev_wer"] is None else f", dev WER {result['dev_wer']:.2%}"
    line = f"{run_dir}: {done}: {result['steps']:,} steps in {result['seconds']:.0f} s{wer}{early}"
    return Report({**result, "run": str(run_dir)}, [line, f"next: bert2ctc evaluate {run_dir}"])


def training_job(config: ExperimentConfig, roots: Roots, run_dir: Path, cache_reference: str) -> TrainingJob:
    """What the trainer is given; nothing is written. Raises PipelineError where there is no cache to use."""
    from student.data.training_data import TrainingJob

    prepared = prepared_folder(config, roots)
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
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"initial": {"checkpoint": str(path), "sha256": digest}}


def _quiet_for(prepared: Path) -> AbstractContextManager[None]:
    """Silence the MP3 decoder's notes about valid files, where there are MP3 files to decode."""
    has_mp3 = any('.mp3"' in path.read_text(encoding="utf-8") for path in prepared.glob("*.jsonl"))
    return silent_decoders() if has_mp3 else nullcontext()


def _cache_of_run(config: ExperimentConfig, roots: Roots, run_dir: Path, reference: str) -> Path | None:
    """The cache asked for, pulled first from a URL, else the run's own, else the one of the config's name."""
    if not config.student.objective.uses_branch:
        return None
    from student.training.run_cache import refuse_another_cache
    from teacher_cache.sharing.transport import is_url
    from teacher_cache.store import read_manifest, resolve

    started_with = (read_record(run_dir) or {}).get("cache", "")
    if is_url(reference):
        from pipeline.stages.share import fetch_for_run

        return fetch_for_run(reference, roots, run_dir, started_with)
    if not (reference or started_with) and not (roots.cache / "names" / config.name).is_file():
        raise PipelineError(
            f"no teacher cache for config {config.name!r} below {roots.cache}; "
            f"make it with `make teacher-cache CONFIG={config.name}`, or name one with --cache"
        )
    path = resolve(roots.cache, reference or started_with or config.name)
    if not (reference or started_with):
        _refuse_another_teacher(config, read_manifest(path))
    if started_with and path.name != started_with:
        refuse_another_cache(run_dir, read_manifest(path))  # names what differs, where it can
        raise PipelineError(
            f"{run_dir}: began with cache {started_with}, not {path.name}; start a new run with RUN="
        )
    return path


def _refuse_another_teacher(config: ExperimentConfig, manifest: Manifest) -> None:
    """The config's name may still stand for a cache that an earlier [teacher] labelled."""
    wanted, held = config.teacher.name or config.teacher.model, manifest.teacher
    if wanted in (held.name, held.model) or (not held.model and Path(wanted).name == held.name):
        return  # a local folder has no model's name, and goes by its own wherever it lies
    raise PipelineError(
        f"cache {manifest.fingerprint} of config {config.name!r} was labelled by teacher {held.name!r}; the "
        f"config names {wanted!r}; run `bert2ctc cache build` with it, or name this cache with --cache"
    )


def evaluate_run(
    run_dir: Path,
    roots: Roots,
    splits: Sequence[str],
    device: str,
    average_count: int = 0,
    average_of: str = "last",
) -> Report:
    """Word and character errors of a run's student on its own corpus' splits, greedily decoded.

    average_count, average_of : the mean of so many of its last or best checkpoints instead; 0: of none
    """
    from student.inference.averaging import Average
    from student.inference.evaluation import evaluate

    record = read_record(run_dir)
    if record is None:
        raise PipelineError(f"{run_dir}: no run is recorded there; train one with `make train`")
    prepared = Path(record["prepared"])
    known = [name for name in record["config"]["data"]["splits"] if name != "train"]
    unknown = set(splits) - set(known) - {"train"}
    if unknown:
        raise PipelineError(
            f"no split {', '.join(sorted(unknown))}; this run's corpus has {', '.join(known)}, train"
        )
    manifests = {name: prepared / f"{name}.jsonl" for name in splits or known}
    started = time.monotonic()
    with _quiet_for(prepared):
        average = Average(count=average_count, of=average_of) if average_count else None
        scores = evaluate(run_dir, manifests, roots.data, device, say, average)
    result = {"run": str(run_dir), "splits": scores, "seconds": time.monotonic() - started}
    folder = run_dir / "evaluation" / (average.name if average else "")
    return Report(result, [_score_table(scores), f"references and hypotheses: {folder}"])


def _score_table(scores: Mapping[str, Mapping[str, Any]]) -> Any:
    taps = sorted({layer for score in scores.values() for layer in score["tap_wer"]}, key=int)
    columns = ["split", "WER %", "CER %", "S", "D", "I", "words", *(f"WER % layer {tap}" for tap in taps)]
    rows = [
        [
            name,
            f"{100 * score['wer']:.2f}",
            f"{100 * score['cer']:.2f}",
            *(f"{score[key]:,}" for key in ("substitutions", "deletions", "insertions", "words")),
            *(f"{100 * score['tap_wer'][tap]:.2f}" for tap in taps),
        ]
        for name, score in scores.items()
    ]
    return table("", columns, rows)


def transcribe_files(run_dir: Path, audio: Sequence[Path], device: str) -> Report:
    """What is said in the files, in their order."""
    from student.inference.transcription import transcribe

    spoken = [{"audio": str(path), "text": text} for path, text in transcribe(run_dir, audio, device, say)]
    return Report({"transcripts": spoken}, [f"{entry['audio']}\t{entry['text']}" for entry in spoken])
