"""Several students, one cache, one table: a ladder file names a config, and what differs per student."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import CONFIG_FOLDER, ExperimentConfig, load_config
from pipeline.console import Report, table
from pipeline.errors import PipelineError
from pipeline.paths import Roots
from pipeline.processes import run_command
from pipeline.run_record import provenance
from teacher_cache.common.files import write_json


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
    known = _known_seconds(folder / "results.json")
    seconds, accuracy = _shared_stages(ladder, config, roots, overrides, known)
    rows = [_student(name, ladder, config, roots, overrides) for name in ladder.students]
    for row in rows:
        seconds[f"train_{row['name']}"] = row["seconds"]
    results = {
        "rows": rows,
        "seconds": seconds,
        "teacher_site_accuracy": accuracy,
        "provenance": provenance(),
    }
    write_json(folder / "results.json", results)
    return Report(results, [*_tables(results), f"written to {folder / 'results.json'}"])


def _shared_stages(
    ladder: Ladder,
    config: ExperimentConfig,
    roots: Roots,
    overrides: Sequence[str],
    known: Mapping[str, float],
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds by stage, and the teacher's accuracy at the demo's homophones ({} elsewhere).

    known : seconds of an earlier run; they stand for a stage that had nothing to do
    """
    settings = [argument for override in overrides for argument in ("--set", override)]
    data, cache = ["--data-root", str(roots.data)], ["--cache-root", str(roots.cache)]
    runs, scratch = ["--runs-root", str(roots.runs)], ["--scratch-root", str(roots.scratch)]
    commands = {
        "corpus": ("data", "demo", ladder.config, *settings, *data),
        "prepare": ("data", "prepare", ladder.config, *settings, *data, *runs),
        "teacher": ("teacher", "train", ladder.config, *settings, *data, *runs, *scratch),
        "cache": ("cache", "build", ladder.config, *settings, *data, *cache, *runs),
    }
    if config.demo_corpus is None:
        del commands["corpus"]
    seconds: dict[str, float] = {}
    accuracy: dict[str, float] = {}
    for stage, command in commands.items():
        done = run_command(*command)
        took = known.get(stage, done["seconds"]) if done.get("is_reused") else done["seconds"]
        seconds[stage] = round(float(took), 1)
        accuracy |= done.get("site_accuracy", {})
    return seconds, accuracy


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
        from pipeline.demo.homophones import score_run

        row |= score_run(run, ladder.evaluate[0], roots.data / config.data.corpus)
    return row


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _known_seconds(path: Path) -> dict[str, float]:
    return dict(json.loads(path.read_text(encoding="utf-8"))["seconds"]) if path.is_file() else {}


def _tables(results: Mapping[str, Any]) -> list[Any]:
    rows = results["rows"]
    if "homophone_error_rate" not in rows[0]:
        return [
            table("", ["student", "WER %", "CER %", "steps", "seconds"], [_cells(row, []) for row in rows])
        ]
    figures = [(rate, kind) for rate in ("error", "partner") for kind in ("seen", "teacher_only")]
    columns = ["wrong %: seen", "teacher-only", "partner %: seen", "teacher-only"]
    sites, chance = rows[0]["homophone_sites"], rows[0]["homophone_chance"]
    accuracy = results["teacher_site_accuracy"]
    return [
        table(
            "",
            ["student", "WER %", "CER %", *columns, "steps", "seconds"],
            [_cells(row, figures) for row in rows],
        ),
        *(
            f"{kind.replace('_', '-')} homophones: {sites[kind]} sites, chance {chance[kind]:.0%} wrong, "
            f"the teacher alone {1 - accuracy[kind]:.1%} wrong"
            for kind in sites
        ),
        "wrong: the aligned word is another or missing; partner: it is the other spelling of the pair",
    ]


def _cells(row: Mapping[str, Any], figures: Sequence[tuple[str, str]]) -> list[str]:
    rates = [f"{100 * row[f'homophone_{rate}_rate'][kind]:.1f}" for rate, kind in figures]
    scores = [f"{100 * row[key]:.1f}" for key in ("wer", "cer")]
    return [row["name"], *scores, *rates, f"{row['steps']:,}", f"{row['seconds']:.0f}"]
