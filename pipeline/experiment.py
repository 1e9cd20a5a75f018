"""Several students, one cache, one table: a ladder file names a config, and what differs per student."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.commands import run_command
from pipeline.config import CONFIG_FOLDER, ExperimentConfig, load_config
from pipeline.console import Report, table
from pipeline.errors import PipelineError
from pipeline.roots import Roots
from pipeline.run_record import provenance, read_record, write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """The students of one experiment: overrides by name, in the order in which they are trained."""

    name: str
    config: str
    evaluate: tuple[str, ...]
    students: Mapping[str, Mapping[str, Any]]


def load_ladder(reference: str) -> Ladder:
    """The ladder of a shipped name or a TOML path. Raises PipelineError for anything it does not know."""
    shipped = CONFIG_FOLDER / "ladders" / f"{reference}.toml"
    path = shipped if shipped.is_file() else Path(reference)
    if not path.is_file():
        known = sorted(entry.stem for entry in (CONFIG_FOLDER / "ladders").glob("*.toml"))
        raise PipelineError(f"no ladder {reference!r}: neither a TOML file nor one of {', '.join(known)}")
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    unknown = tables.keys() - {"config", "evaluate", "students"}
    if unknown or not tables.get("students") or "config" not in tables:
        raise PipelineError(
            f"{path}: a ladder holds config, evaluate and [students.NAME] tables; unknown: {unknown}"
        )
    config = str(tables["config"])
    if config.endswith(".toml"):
        config = str((path.parent / config).resolve())
    return Ladder(
        name=path.stem,
        config=config,
        evaluate=tuple(tables.get("evaluate", ("dev",))),
        students=tables["students"],
    )


def run_experiment(reference: str, roots: Roots, overrides: Sequence[str]) -> Report:
    """Every stage of the ladder, each reused where it is there; writes `<runs>/<name>/results.json`."""
    ladder = load_ladder(reference)
    config = load_config(ladder.config, overrides)
    folder = roots.runs / ladder.name
    seconds = _shared_stages(ladder, config, roots, overrides)
    rows = [_student(name, ladder, config, roots, overrides) for name in ladder.students]
    for row in rows:
        seconds[f"train_{row['name']}"] = row["seconds"]
    results = {
        "rows": rows,
        "seconds": seconds,
        **_teacher_accuracy(config, roots),
        "provenance": provenance(),
    }
    write_json(folder / "results.json", results)
    return Report(results, [*_tables(results), f"written to {folder / 'results.json'}"])


def _shared_stages(
    ladder: Ladder, config: ExperimentConfig, roots: Roots, overrides: Sequence[str]
) -> dict[str, float]:
    settings = [argument for override in overrides for argument in ("--set", override)]
    data, cache = ["--data-root", str(roots.data)], ["--cache-root", str(roots.cache)]
    runs, scratch = ["--runs-root", str(roots.runs)], ["--scratch-root", str(roots.scratch)]
    seconds = {}
    if config.demo_corpus is not None:
        seconds["corpus"] = run_command("data", "demo", ladder.config, *settings, *data)["seconds"]
    seconds["prepare"] = run_command("data", "prepare", ladder.config, *settings, *data, *runs)["seconds"]
    if config.teacher_training is not None:
        done = run_command("teacher", "train", ladder.config, *settings, *data, *runs, *scratch)
        seconds["teacher"] = done["seconds"]
    done = run_command("cache", "build", ladder.config, *settings, *data, *cache, *runs)
    seconds["cache"] = done["seconds"]
    return {stage: round(float(value), 1) for stage, value in seconds.items()}


def _student(
    name: str, ladder: Ladder, config: ExperimentConfig, roots: Roots, overrides: Sequence[str]
) -> dict[str, Any]:
    own = [f"{key}={_toml(value)}" for key, value in ladder.students[name].items()]
    settings = [argument for override in (*overrides, *own) for argument in ("--set", override)]
    run = roots.runs / ladder.name / name
    data, runs = ["--data-root", str(roots.data)], ["--runs-root", str(roots.runs)]
    cache = ["--cache-root", str(roots.cache)]
    trained = run_command("train", ladder.config, *settings, "--run-dir", str(run), *data, *cache, *runs)
    splits = [argument for split in ladder.evaluate for argument in ("--split", split)]
    scores = run_command("evaluate", str(run), *splits, *data, *runs)["splits"]
    first = scores[ladder.evaluate[0]]
    row = {"name": name, "wer": first["wer"], "cer": first["cer"], "steps": trained["steps"]}
    row["seconds"] = round(float(trained["seconds"]), 1)
    row["splits"] = scores
    if config.demo_corpus is not None:
        from pipeline.homophones import score_run

        row |= score_run(run, ladder.evaluate[0], roots.data / config.data.corpus)
    return row


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _teacher_accuracy(config: ExperimentConfig, roots: Roots) -> dict[str, Any]:
    record = (
        read_record(roots.runs / "teachers" / config.teacher.name) if config.demo_corpus is not None else None
    )
    return {} if record is None else {"teacher_site_accuracy": record.get("site_accuracy", {})}


def _tables(results: Mapping[str, Any]) -> list[Any]:
    has_sites = "homophone_error_rate" in results["rows"][0]
    columns = [
        "student",
        "WER %",
        "CER %",
        *(["seen %", "teacher-only %"] if has_sites else []),
        "steps",
        "seconds",
    ]
    rows = []
    for row in results["rows"]:
        sites = [
            f"{100 * row['homophone_error_rate'][kind]:.1f}" for kind in ("seen", "teacher_only") if has_sites
        ]
        scores = [f"{100 * row[key]:.1f}" for key in ("wer", "cer")]
        rows.append([row["name"], *scores, *sites, f"{row['steps']:,}", f"{row['seconds']:.0f}"])
    tables: list[Any] = [table("", columns, rows)]
    return tables
