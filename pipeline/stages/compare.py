"""The stages `bert2ctc compare` and `bert2ctc runs pack`: runs against each other, a run as one file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.comparison.differences import compare, rates_of
from pipeline.comparison.run_facts import RunFacts, bases_of, packed, read_run, split_reference
from pipeline.comparison.systems import SharedSplit, System, systems_of
from pipeline.comparison.words import (
    Homophones,
    demo_homophones,
    read_homophones,
    word_groups,
    word_records,
)
from pipeline.console import Report
from pipeline.errors import PipelineError
from pipeline.files import FILES
from pipeline.paths import Roots
from pipeline.report.comparison_table import comparison_lines
from pipeline.run_record import RECORD_NAME
from teacher_cache.common.files import write_json
from teacher_cache.common.sizes import megabytes
from teacher_cache.common.small_files import is_there
from teacher_cache.common.typed import convert


@dataclass(frozen=True, slots=True)
class CompareRequest:
    """What to compare: `RUN` or `RUN@DECODER`, on one split; `top` words that the runs disagree on."""

    references: tuple[str, ...]
    split: str = ""
    every_pair: bool = False
    homophones: Path | None = None
    top: int = 20


def compare_runs(request: CompareRequest, roots: Roots) -> Report:
    """Word error rates, their differences with intervals and p-values, and the words behind them."""
    chosen, bases = runs_of(request.references, roots)
    test_set, systems = systems_of(chosen, request.split)
    result = comparison(test_set, systems, request, [facts for facts, _ in chosen], bases)
    if not result["differences"]:
        others = " but for what it begins with" if result["bases"] else ""
        raise PipelineError(
            f"one configuration alone{others}: the runs differ in their seeds at most; name a run of another "
            "one too"
        )
    return Report(result, comparison_lines(result))


def runs_of(references: Sequence[str], roots: Roots) -> tuple[list[tuple[RunFacts, str]], set[str]]:
    """The runs by name, folder or JSON, each with its decoder; of a ladder's folder all that it holds.

    Beside them the names of bases: of a ladder's folder, and another of the runs begins with them.
    """
    split, of_ladders = [], set[Path]()
    for reference in references:
        path, decoder = split_reference(reference, roots)
        members = _members(path)
        split += [(one, decoder) for one in members]
        of_ladders |= set(members) - {path}
    read = {path: read_run(path, roots) for path in dict.fromkeys(path for path, _ in split)}
    chosen = [(read[path], decoder) for path, decoder in split]
    if len(set(split)) < len(split):
        twice = next(path for path, decoder in split if split.count((path, decoder)) > 1)
        raise PipelineError(f"{twice} is named twice; name each run once")
    return chosen, {read[path].name for path in of_ladders} & bases_of(list(read.values()))


def _members(path: Path) -> list[Path]:
    """The path itself, or the runs of a ladder in its order."""
    if path.is_file() or is_there(path / RECORD_NAME):
        return [path]
    inside = sorted(record.parent for record in path.glob(f"*/{RECORD_NAME}"))
    results = path / "results.json"
    if is_there(results):
        advice = "run the experiment again, or name its runs one by one"
        with FILES.faults_told(results, advice):
            rows = convert(list[Mapping[str, Any]], FILES.json(results, advice).get("rows"), "rows")
        order = {row.get("run"): place for place, row in enumerate(rows)}
        inside.sort(key=lambda run: order.get(run.name, len(order)))
    return inside or [path]


def comparison(
    test_set: SharedSplit,
    systems: Sequence[System],
    request: CompareRequest,
    runs: Sequence[RunFacts],
    bases: Collection[str],
) -> dict[str, Any]:
    """All that a comparison found, JSON-ready. bases : names of runs that are in no difference"""
    begun = [one.name for one in systems if any(run.name in bases for run in one.runs)]
    compared = [one for one in systems if one.name not in begun]
    differences = compare(compared, test_set, request.every_pair) if len(compared) > 1 else []
    homophones = _homophones(request.homophones, runs)
    counts: Mapping[str, int] = next((one.training_counts for one in runs if one.training_counts), {})
    by_name = {system.name: system for system in systems}
    words = []
    for difference in differences:
        pair = by_name[difference.ours], by_name[difference.minus]
        records = word_records(*pair, counts, homophones)
        words.append(
            {
                "ours": difference.ours,
                "minus": difference.minus,
                "disagreed": len(records),
                "words": [_record(record) for record in records[: request.top]],
                "groups": [asdict(one) for one in word_groups(*pair, test_set, counts, homophones)],
            }
        )
    return {
        "split": test_set.split,
        "utterances": len(test_set.ids),
        "speakers": test_set.num_speakers,
        "words": int(test_set.words.sum()),
        "rates": [asdict(rate) for rate in rates_of(systems, test_set)],
        "runs": {system.name: [facts.name for facts in system.runs] for system in systems},
        "bases": begun,
        "differences": [asdict(difference) for difference in differences],
        "disagreements": words,
        "knows_training_counts": bool(counts),
        "knows_homophones": bool(homophones),
    }


def pack_run(path: Path, file: Path, roots: Roots) -> Report:
    """Write a run's facts as one new JSON file, for comparisons and reports elsewhere; without weights."""
    if file.exists():
        raise PipelineError(f"{file} exists; name another file, or remove it first")
    facts = read_run(path, roots)
    write_json(file, packed(facts))
    decoders = {name: list(splits) for name, splits in facts.evaluations.items()}
    told = "; ".join(f"{name}: {', '.join(splits)}" for name, splits in decoders.items()) or "no evaluation"
    size = file.stat().st_size
    result = {"path": str(file), "run": facts.name, "evaluations": decoders, "bytes": size}
    return Report(result, [f"{file}: {megabytes(size)}, {told}"])


def _homophones(path: Path | None, runs: Sequence[RunFacts]) -> Homophones:
    if path is not None:
        return read_homophones(path)
    return demo_homophones() if all(run.is_of_demo for run in runs) else {}


def _record(record: Any) -> dict[str, Any]:
    told = asdict(record)
    told["heard"] = [dict(heard.most_common(3)) for heard in record.heard]
    return told | {"is_rare": record.is_rare}
