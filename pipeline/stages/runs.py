"""The stages `bert2ctc runs ...` and `bert2ctc export`: how runs fare, how two differ, a model for others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.console import Report, table
from pipeline.errors import PipelineError
from pipeline.files import FILES
from pipeline.paths import Roots
from pipeline.run_record import RECORD_NAME, read_record, run_of, state_of, with_defaults
from student.errors import StudentError
from student.training.run_folder import best_step, metrics, saved_steps
from teacher_cache.common.differences import differences, phrases
from teacher_cache.common.sizes import megabytes
from teacher_cache.common.typed import convert
from teacher_cache.store import damaged_names
from teacher_cache.store.root import names_by_meaning

_DEPTH = 2  # a run, or a student of an experiment
_SHOWN_FINGERPRINT = 12
_CODE = ("cache", "versions", "git_commit", "python")


def list_runs(roots: Roots) -> Report:
    """Every run below the runs root: state, step, best dev WER, cache."""
    runs = [facts for folder in _run_folders(roots.runs) if (facts := _listed(folder, roots)) is not None]
    rows = [
        [
            facts["run"],
            facts["state"],
            "-" if facts["step"] is None else f"{facts['step']:,} / {facts['max_steps']:,}",
            _percent(facts["best_wer"]),
            "-" if facts["best_step"] is None else f"{facts['best_step']:,}",
            _shown_cache(facts),
        ]
        for facts in runs
    ]
    lines: list[Any] = [table("", ["run", "state", "step", "best WER %", "at step", "cache"], rows)]
    lines += [f"{facts['run']} {facts['state']}: {facts['error']}" for facts in runs if facts["error"]]
    lines += damaged_names(roots.cache)
    if not runs:
        lines = [f"no runs below {roots.runs}; train one with `bert2ctc train`"]
    return Report({"runs": runs}, lines)


def diff_runs(one: Path, other: Path, roots: Roots) -> Report:
    """What two runs differ in: settings, cache, versions and code; and how each fares."""
    records = [run_of(folder) for folder in (one, other)]
    facts = [entry for folder in (one, other) if (entry := run_facts(folder, roots)) is not None]
    left, right = (with_defaults(record["config"]) for record in records)
    settings = differences(left, right)
    left, right = ({key: record.get(key) for key in _CODE} for record in records)
    about = differences(left, right)
    rows = phrases(
        {key: (_shown(left), _shown(right)) for key, (left, right) in (settings | about).items()},
        "{key}: {old} -> {new}",
    )
    heads = [
        ["state", *(entry["state"] for entry in facts)],
        ["step", *(f"{entry['step']:,}" for entry in facts)],
        ["best WER %", *(_percent(entry["best_wer"]) for entry in facts)],
    ]
    lines: list[Any] = [table("", ["", *(entry["run"] for entry in facts)], heads), *rows]
    lines += [] if settings else ["no setting differs"]
    pairs = [{key: list(pair) for key, pair in found.items()} for found in (settings, about)]
    return Report({"runs": facts, "settings": pairs[0], "other": pairs[1]}, lines)


def run_facts(folder: Path, roots: Roots) -> dict[str, Any] | None:
    """State, step, best WER, cache and its names, JSON-ready; None where the folder is not a student's."""
    record = read_record(folder)
    if record is None or "prepared" not in record:
        return None
    best, state = best_step(folder), state_of(folder, record)
    trained = [entry["step"] for entry in metrics(folder) if entry["kind"] == "train"]
    with FILES.faults_told(folder / RECORD_NAME, "move the folder away"):
        max_steps = with_defaults(record.get("config", {})).get("trainer", {}).get("max_steps")
        max_steps = convert(int, max_steps, "config.trainer.max_steps")
    return {
        "run": _run_name(folder, roots),
        "path": str(folder),
        "state": state,
        "error": record.get("error", "") if state == "failed" else "",
        "step": max([*trained[-1:], *saved_steps(folder)[-1:]], default=0),
        "max_steps": max_steps,
        "best_wer": best[1] if best else None,
        "best_step": best[0] if best else None,
        "cache": record.get("cache", ""),
        "cache_names": names_by_meaning(roots.cache).get(record.get("cache", ""), []),
    }


def _listed(folder: Path, roots: Roots) -> dict[str, Any] | None:
    """The facts of a run for the list, where a damaged run stands with its fault instead of figures."""
    try:
        return run_facts(folder, roots)
    except (PipelineError, StudentError) as error:
        unknown = dict.fromkeys(("step", "max_steps", "best_wer", "best_step"))
        facts = {"run": _run_name(folder, roots), "path": str(folder), "state": "damaged"}
        return {**facts, "error": str(error), "cache": "", "cache_names": [], **unknown}


def _run_name(folder: Path, roots: Roots) -> str:
    return str(folder.relative_to(roots.runs) if folder.is_relative_to(roots.runs) else folder)


def export_run(run_dir: Path, folder: Path, average_count: int = 0, average_of: str = "last") -> Report:
    """Export the run's final (else best, else last) model, or the mean of some checkpoints."""
    from student.inference.averaging import Average
    from student.inference.export import export_model

    average = Average(count=average_count, of=average_of) if average_count else None
    exported = export_model(run_dir, folder, average)
    done = "is there already, nothing to do" if exported.is_reused else "exported"
    lines = [
        f"{folder}: {done}: {exported.weights:,} weights, {megabytes(exported.bytes)}, "
        f"from {exported.source}, step {exported.step:,}",
        f'use it: student.load_model("{folder}").transcribe("recording.flac")',
    ]
    return Report({**asdict(exported), "path": str(exported.path)}, lines)


def _run_folders(root: Path) -> list[Path]:
    patterns = ["/".join(["*"] * depth) + f"/{RECORD_NAME}" for depth in range(1, _DEPTH + 1)]
    return sorted(path.parent for pattern in patterns for path in root.glob(pattern))


def _shown_cache(facts: Mapping[str, Any]) -> str:
    short = facts["cache"][:_SHOWN_FINGERPRINT]
    return f"{short} ({', '.join(facts['cache_names'])})" if facts["cache_names"] else short or "none"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)
