"""The stage `bert2ctc report`: everything that is known of several runs on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.comparison.run_facts import RunFacts
from pipeline.comparison.systems import SharedSplit, System, systems_of
from pipeline.console import Report
from pipeline.errors import PipelineError
from pipeline.paths import Roots
from pipeline.report.comparison_table import comparison_notes
from pipeline.report.page.alignment_browser import MOST_UTTERANCES, browser_entries
from pipeline.report.page.page import ReportContent, SplitContent, report_page
from pipeline.stages.compare import CompareRequest, comparison, runs_of
from student.data.manifest import read_manifest
from student.decoding.names import GREEDY
from student.errors import StudentError
from teacher_cache import store
from teacher_cache.common.files import write_whole
from teacher_cache.common.sizes import megabytes
from teacher_cache.common.small_files import is_there
from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.passages import passages_of
from teacher_cache.store.inspection import InspectedPassage, inspect_passages

_TOP = 30  # words that runs disagree on, by difference


def write_report(
    references: Sequence[str], out: Path, roots: Roots, homophones: Path | None = None, force: bool = False
) -> Report:
    """Write the page of the runs to `out`; of a run named without a decoder all that evaluated it are shown.

    references : RUN, RUN@DECODER, the JSON of a run, or a folder of runs (a ladder's)
    Raises PipelineError where `out` is taken, unless `force`.
    """
    if out.exists() and not force:
        raise PipelineError(f"{out} exists; name another file with --out, or replace it with --force")
    named, bases = runs_of(references, roots)
    chosen = _with_decoders(named, references)
    runs = list({facts.name: facts for facts, _ in chosen}.values())
    caches = _caches(runs, roots)
    splits, faults = _splits(chosen, bases, homophones, roots)
    content = ReportContent(runs=runs, splits=splits, caches=caches, faults=faults)
    page = report_page(content)
    write_whole(out, page)
    size = len(page.encode())
    result = {
        "path": str(out),
        "bytes": size,
        "runs": [facts.name for facts in runs],
        "splits": [one.result["split"] for one in splits],
        "faults": faults,
    }
    return Report(result, [*faults, f"{out}: {megabytes(size)}, {len(runs)} runs; open it in any browser"])


def _with_decoders(
    chosen: Sequence[tuple[RunFacts, str]], references: Sequence[str]
) -> list[tuple[RunFacts, str]]:
    """Of a run that was named without a decoder, every decoder that it was evaluated with, greedy first."""
    named = any("@" in reference for reference in references)
    found = []
    for facts, decoder in chosen:
        others = [] if named else [one for one in facts.evaluations if one != GREEDY]
        found += [(facts, one) for one in dict.fromkeys((decoder, *others))]
    return found


def _splits(
    chosen: Sequence[tuple[RunFacts, str]], bases: set[str], homophones: Path | None, roots: Roots
) -> tuple[list[SplitContent], list[str]]:
    """Every split with the runs that were evaluated on it; a split that cannot be compared is a fault."""
    names = dict.fromkeys(
        split for facts, decoder in chosen for split in facts.evaluations.get(decoder, {})
    )  # in the order of their first run
    found, faults = [], []
    for name in sorted(names, key=lambda split: (split == "dev", split)):
        own = [(facts, decoder) for facts, decoder in chosen if name in facts.evaluations.get(decoder, {})]
        try:
            shared, systems = systems_of(own, name)
        except PipelineError as fault:
            faults.append(f"{name}: {fault}")
            continue
        request = CompareRequest((), name, homophones=homophones, top=_TOP)
        result = comparison(shared, systems, request, [facts for facts, _ in own], bases)
        inspected, note = _inspected(shared, systems, roots)
        notes = [*comparison_notes(result), note]
        found.append(SplitContent(result, notes, browser_entries(shared, systems, inspected)))
    return found, faults


def _caches(runs: Sequence[RunFacts], roots: Roots) -> dict[str, store.Manifest]:
    paths = {run.cache: roots.cache / run.cache for run in runs if run.cache}
    return {
        fingerprint: store.read_manifest(path)
        for fingerprint, path in paths.items()
        if is_there(path / "manifest.json")
    }


def _inspected(
    shared: SharedSplit, systems: Sequence[System], roots: Roots
) -> tuple[Mapping[str, InspectedPassage], str]:
    """The teacher's labels of the utterances that the browser shows, and a note; {} where there are none."""
    entries: list[dict[str, Any]] = browser_entries(shared, systems, {})
    shown = {entry["id"] for entry in entries[:MOST_UTTERANCES]}
    for run in (run for system in systems for run in system.runs):
        manifest, cache = Path(run.prepared) / f"{shared.split}.jsonl", roots.cache / run.cache
        if not run.cache or not run.prepared or not is_there(manifest) or not is_there(cache):
            continue
        try:
            recipe = store.read_manifest(cache).recipe
            policy = CacheConfig(context=recipe.context, context_words=recipe.context_words)
            utterances = read_manifest(manifest)
            passages = {
                utterance.id: passage
                for utterance, passage in zip(utterances, passages_of(utterances, policy), strict=True)
                if utterance.id in shown
            }
            found = inspect_passages(cache, passages, top=5) if passages else []
        except (CacheError, StudentError):
            continue  # another run's cache may hold the split
        return {one.name: one for one in found}, f"the teacher's choices are those of cache {run.cache}"
    return {}, f"no teacher's choices: no cache at hand holds labels of split {shared.split}"
