"""What lies where in a run folder, and who holds it; read without PyTorch, so that listing runs is quick."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from student.errors import StudentError
from student.files import FILES, disk_faults_told, write_json
from teacher_cache.common.small_files import NoSuchFile, is_there, open_regular, parse_object, read_lines
from teacher_cache.common.typed import Fault, convert

FINAL_NAME, METRICS_NAME, LOG_NAME, RESULT_NAME = "final.pt", "metrics.jsonl", "log.txt", "result.json"
_FOLDER, _BEST_NAME = "checkpoints", "best.json"
_STEP_NAME = re.compile(r"step-(\d{8,})\.pt")
_METRIC_KINDS: dict[str, Any] = {"step": int, "kind": str}  # all others are figures
_LOCK_NAME, _LOCK_TRIES, _LOCK_PAUSE_SECONDS, _SHOWN_OWNER_BYTES = ".lock", 5, 0.02, 40
ANOTHER_RUN = "another --run-dir (RUN= of make)"  # what an error offers where a folder is taken


@dataclass(frozen=True, slots=True)
class _Best:
    """What best.json holds."""

    step: int
    dev_wer: float


def step_path(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run_dir / _FOLDER / f"step-{step:08d}.pt"


def saved_steps(run_dir: Path) -> list[int]:
    """Steps with a checkpoint, ascending."""
    names = (_STEP_NAME.fullmatch(path.name) for path in (run_dir / _FOLDER).glob("step-*.pt"))
    return sorted(int(name[1]) for name in names if name)


def best_step(run_dir: Path) -> tuple[int, float] | None:
    """The step with the lowest dev WER so far and that WER, None before the first evaluation."""
    path = run_dir / _FOLDER / _BEST_NAME
    if not is_there(path):
        return None
    best = FILES.record(_Best, path, "delete it: the next evaluation writes it anew")
    return best.step, best.dev_wer


def mark_best(run_dir: Path, step: int, dev_wer: float) -> None:
    """Remember the step as the best one; its checkpoint must have been saved."""
    write_json(run_dir / _FOLDER / _BEST_NAME, {"step": step, "dev_wer": dev_wer})


def dev_rates(run_dir: Path, name: str = "wer") -> dict[int, float]:
    """Rates of the dev split by step, in the order of the evaluations; name : "wer" or "cer"."""
    return {
        entry["step"]: float(entry[name])
        for entry in metrics(run_dir)
        if entry["kind"] == "dev" and entry.get(name) is not None
    }


def dev_wers(run_dir: Path) -> dict[int, float]:
    """WER of the dev split by step, in the order of the evaluations."""
    return dev_rates(run_dir)


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Entries of metrics.jsonl, up to a half-written last line; none where the file is absent.

    Each holds "step", an integer, "kind", a word, and figures by name, None where one was not finite.
    Raises StudentError for a line that is none, unless nothing stands behind it.
    """
    path = run_dir / METRICS_NAME
    return [entry for _, entry in metric_lines(path)] if is_there(path) else []


def metric_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every whole line of metrics.jsonl as it stands there, and its entry; see `metrics`."""
    fault, advice = "", "mend or delete that line, or the file: figures and early stop are read from it"
    with FILES.faults_told(path, advice):
        for number, line in read_lines(path):
            if fault:
                raise Fault(fault)
            try:
                if isinstance(line, Fault):
                    raise line
                entry = _metrics_entry(line)
            except Fault as found:
                fault = f"line {number} {found}"  # of the last line no fault: its writer was killed
            else:
                yield line, entry


def _metrics_entry(line: str) -> dict[str, Any]:
    entry = parse_object(line)
    for name, value in entry.items():
        convert(_METRIC_KINDS.get(name, float | None), value, name)
    if not entry.keys() >= _METRIC_KINDS.keys():
        raise Fault("lacks step or kind")
    return entry


def best_saved_steps(run_dir: Path, count: int) -> list[int]:
    """The `count` saved steps with the lowest dev WER, lowest first, the earlier of equals first."""
    wers = dev_wers(run_dir)
    return sorted((step for step in saved_steps(run_dir) if step in wers), key=lambda step: wers[step])[
        :count
    ]


def prune_checkpoints(run_dir: Path, keep: int, keep_best: int = 1) -> None:
    """Delete all but the last `keep` checkpoints, the best one and the `keep_best` best ones.

    What a killed process was writing goes too: the run is locked, so nobody else writes.
    """
    for partial in (run_dir / _FOLDER).glob("*.partial"):
        partial.unlink(missing_ok=True)
    best = best_step(run_dir)
    kept = {best[0]} if best else set()
    kept |= set(best_saved_steps(run_dir, keep_best)) if keep_best > 1 else set()
    for step in saved_steps(run_dir)[: -max(keep, 1)]:
        if step not in kept:
            step_path(run_dir, step).unlink(missing_ok=True)


def model_path(run: Path) -> Path:
    """The file to use for inference: of a run folder final.pt, else its best, else its last checkpoint.

    A path to a checkpoint stands for itself. Raises StudentError where there is none.
    """
    if run.is_file():
        return run
    if is_there(run / FINAL_NAME):  # what is no file is told by whoever opens it, never passed over
        return run / FINAL_NAME
    steps, best = saved_steps(run), best_step(run)
    if best is not None and best[0] in steps:
        return step_path(run, best[0])
    if not steps:
        raise StudentError(f"{run}: holds no trained model; train it first with `bert2ctc train`")
    return step_path(run, steps[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """How a run ended; `result.json` in its folder.

    dev_wer, best_dev_wer : 0 and up, None without a dev manifest     skipped_steps : NaN or infinite
    seconds : spent training, over every start of the run     audio_seconds : trained on, padding left out
    data_wait_seconds : of `seconds`, spent waiting for audio
    initial_checkpoint : what the weights began from, "" where they began at random
    stopped_early : before max_steps, because trainer.early_stop_evaluations brought no better dev WER
    already_finished : nothing was done, because the run had ended before
    utterances : that it trained on     left_out_utterances : more units than frames
    clipped_share : of the steps, those whose gradient clipping scaled down, 0..1
    gradient : of `summary.gradient_summary`, {} without a branch     probe_seconds : that it took in all
    listening : of `summary.listening_summary`, {} where no decoder was measured on dev
    """

    steps: int
    epoch: int
    dev_wer: float | None
    best_dev_wer: float | None
    best_step: int | None
    skipped_steps: int
    left_out_utterances: int
    padding_fraction: float
    seconds: float
    audio_seconds: float
    data_wait_seconds: float
    parameters: int
    inference_parameters: int
    cache_fingerprint: str
    device: str
    precision: str
    initial_checkpoint: str = ""
    stopped_early: bool = False
    already_finished: bool = False
    gradient: Mapping[str, float] = field(default_factory=dict)
    listening: Mapping[str, float] = field(default_factory=dict)
    probe_seconds: float = 0.0
    clipped_share: float = 0.0
    utterances: int = 0


def read_result(run_dir: Path) -> TrainingResult | None:
    """The result of a run that has ended, None while it has not."""
    path = run_dir / RESULT_NAME
    if not is_there(path) or not is_there(run_dir / FINAL_NAME):
        return None
    result = FILES.record(TrainingResult, path, "delete it to train the run to its end again")
    return replace(result, already_finished=True)


def write_result(run_dir: Path, result: TrainingResult) -> None:
    """Say that the run has ended; final.pt must have been written."""
    write_json(run_dir / RESULT_NAME, asdict(result))


class RunBusy(StudentError):
    """Another process is training the run."""


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold the run folder; the system releases it when the process ends, however it ends.

    Raises RunBusy where another process holds it.
    """
    path = run_dir / _LOCK_NAME
    with disk_faults_told(path):
        run_dir.mkdir(parents=True, exist_ok=True)
        stream = path.open("ab+", buffering=0)
    with stream:
        if not _acquired(stream):
            stream.seek(0)
            owner = stream.read(_SHOWN_OWNER_BYTES).decode(errors="replace").strip() or "unknown"
            raise RunBusy(f"{run_dir}: process {owner} is training it; wait for it, or choose {ANOTHER_RUN}")
        with disk_faults_told(path):
            stream.truncate(0)
            stream.write(f"{os.getpid()}\n".encode())
        yield


def _acquired(stream: BinaryIO) -> bool:
    """Whether the lock is ours; asked more than once, because `is_running` holds it for a moment."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(_LOCK_PAUSE_SECONDS)
    return False


def is_running(run_dir: Path) -> bool:
    """True while a process trains the run, on this machine or another that shares the file system."""
    path = run_dir / _LOCK_NAME
    with FILES.faults_told(path, "delete it where nothing trains the run"):
        try:
            with open_regular(path) as stream:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except NoSuchFile:
            pass
    return False
