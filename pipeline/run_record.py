"""run.json beside every output: what was asked, with which code and versions, and how it ended."""

from __future__ import annotations

import dataclasses
import os
import platform
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import OF_A_CACHE, TABLES
from pipeline.errors import PipelineError
from pipeline.files import FILES
from student.signals import TrainingInterrupted
from student.training.run_folder import ANOTHER_RUN, FINAL_NAME, RESULT_NAME, RunBusy, is_running
from teacher_cache.common.differences import differences, listed, phrases
from teacher_cache.common.files import write_json
from teacher_cache.common.small_files import is_there
from teacher_cache.common.typed import convert, typed
from teacher_cache.common.versions import installed_version

RECORD_NAME = "run.json"
_DISTRIBUTIONS = ("bert2ctc", "torch", "torchaudio", "transformers", "zarr", "dask", "sentencepiece", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """Of a record, what is read again."""

    config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    prepared: str = ""
    cache: str = ""
    state: str = ""
    error: str = ""


def provenance() -> dict[str, Any]:
    """The code's git commit ("" outside a checkout), whether it had changes, the versions and the machine."""
    return {
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "versions": {name: installed_version(name) for name in _DISTRIBUTIONS},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
    }


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of an output folder, or None where there is none. Raises PipelineError for a damaged one."""
    path, advice = folder / RECORD_NAME, f"move {folder} away and start again"
    if not is_there(path):
        return None
    record = FILES.json(path, advice)
    with FILES.faults_told(path, advice):
        known = {field.name for field in dataclasses.fields(_Record)} & record.keys()
        typed(_Record, {name: record[name] for name in known})
        splits = record.get("config", {}).get("data", {}).get("splits", {})
        convert(Mapping[str, Any], splits, "config.data.splits")
    return record


def run_of(folder: Path) -> dict[str, Any]:
    """The record of a student's run. Raises PipelineError where the folder holds none, or a damaged one."""
    record = read_record(folder)
    if record is None or not record.keys() >= {"prepared", "config"}:
        raise PipelineError(f"{folder}: no run is recorded there; `bert2ctc runs ls` names them")
    return record


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record whole or not at all."""
    write_json(folder / RECORD_NAME, record)


def claim_run(folder: Path, tables: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The record to go on with: a new one, or the one that stands there with an equal config.

    tables : the resolved config; facts : what a new record holds beside it
    Raises PipelineError where the folder belongs to a run with another config, or to no run at all.
    """
    record = read_record(folder)
    if record is None:
        if folder.is_dir() and any(folder.iterdir()):
            raise PipelineError(f"{folder}: holds files but no {RECORD_NAME}; choose {ANOTHER_RUN}")
        record = {"config": dict(tables), **facts, **provenance(), "state": "started"}
        write_record(folder, record)
        return record
    found = differences(*_of_the_student(record["config"], tables))
    if found:
        free = shlex.quote(str(_free_name(folder)))
        raise PipelineError(
            f"{folder}: was started with another config ({listed(phrases(found))}); "
            f"nothing was changed; start a new run with --run-dir {free} (RUN={free} of make)"
        )
    return record


def with_defaults(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of a config, JSON-ready, with every key that they lack at its default.

    Records of older runs lack keys that came later: a missing key meant what its default means now.

    A table that is absent stays so, and so does a key without a default.
    """
    return {
        name: _defaults(TABLES[name]) | dict(table)
        if name in TABLES and isinstance(table, Mapping)
        else table
        for name, table in tables.items()
    }


def _of_the_student(*configs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What decides a run in each: no external language model, and no teacher where CTC is all there is."""
    whole = [with_defaults(tables) for tables in configs]
    is_ctc_alone = all(tables.get("objective", {}).get("ctc_weight") == 1 for tables in whole)
    unread = {"language_model", *(OF_A_CACHE if is_ctc_alone else ())}
    return [{name: table for name, table in tables.items() if name not in unread} for tables in whole]


def _defaults(table_type: Any) -> dict[str, Any]:
    found = {}
    for entry in dataclasses.fields(table_type):
        if entry.default is not dataclasses.MISSING:
            found[entry.name] = entry.default
        elif entry.default_factory is not dataclasses.MISSING:
            found[entry.name] = entry.default_factory()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


@contextmanager
def recorded_state(run_dir: Path, record: Mapping[str, Any]) -> Iterator[None]:
    """Write into the run's record that it started and, where it ends in an error, that it failed and why.

    An interruption is no failure. A process that finds the run busy leaves the other's record alone.
    """
    begun = {key: value for key, value in record.items() if key != "error"}
    if record.get("state") not in ("started", "finished"):
        write_record(run_dir, {**begun, "state": "started"})
    try:
        yield
    except RunBusy:
        raise
    except (TrainingInterrupted, KeyboardInterrupt):
        write_record(run_dir, {**begun, "state": "stopped"})
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        write_record(run_dir, {**begun, "state": "failed", "error": reason})
        raise


def state_of(run_dir: Path, record: Mapping[str, Any]) -> str:
    """ "running", "finished", "failed" or "stopped"; a run that was killed is stopped: it can go on."""
    if is_running(run_dir):
        return "running"
    if (run_dir / RESULT_NAME).is_file() and (run_dir / FINAL_NAME).is_file():
        return "finished"
    return "failed" if record.get("state") == "failed" else "stopped"


def _free_name(folder: Path) -> Path:
    number = 2
    while folder.with_name(f"{folder.name}-{number}").exists():
        number += 1
    return folder.with_name(f"{folder.name}-{number}")


def _git(*arguments: str) -> str:
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
