"""The stage `bert2ctc teacher train`: a masked language model that never trains on what it will label."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.config import ExperimentConfig, as_tables
from pipeline.console import Report, say, table
from pipeline.corpus.prepared import sound_preparation
from pipeline.paths import Roots
from pipeline.run_record import provenance, read_record, write_record
from student.data.manifest import read_manifest

ENOUGH_SITE_ACCURACY = 0.95  # below it the demo tests nothing
MAX_GAP_POINTS = 5.0  # between masked accuracy on labelled transcripts and on held-out text


def train_teacher(config: ExperimentConfig, roots: Roots) -> Report:
    """Train or adapt the config's masked language model, never on a transcript that it will label."""
    from pipeline.stages.asked_teacher import asked_teacher_folder, training_request

    if config.teacher_training is None:
        folder = asked_teacher_folder(config, roots)
        return Report({"folder": str(folder), "seconds": 0.0}, [f"nothing to train: the teacher is {folder}"])
    from student.training.device import choose_device
    from teacher_cache.teacher_training.train import train_teacher as train

    device = choose_device(config.student.trainer.device).type
    result = train(training_request(config, roots, device))
    facts: dict[str, Any] = {**asdict(result), "folder": str(result.folder), "is_reused": result.reused}
    if config.demo_corpus is not None:
        facts["site_accuracy"] = _site_accuracy(config, roots, result.folder)
    if read_record(result.folder) is None:
        write_record(result.folder, {"config": as_tables(config), **provenance(), "result": facts})
    return Report(facts, _lines(facts))


def _site_accuracy(config: ExperimentConfig, roots: Roots, teacher: Path) -> dict[str, float]:
    """How often the teacher prefers the right spelling at the test set's homophones; warns below 95 %."""
    from pipeline.demo.sites import read_sites
    from pipeline.demo.teacher_check import masked_word_scorer, teacher_site_accuracy

    test = read_manifest(sound_preparation(config, roots) / "test.jsonl")
    sites = read_sites(roots.data / config.data.corpus, "test")
    sentences = {utterance.id: utterance.text for utterance in test}
    accuracy = teacher_site_accuracy(sites, sentences, masked_word_scorer(teacher))
    if min(accuracy.values()) < ENOUGH_SITE_ACCURACY:
        say(
            f"warning: the teacher is right at {accuracy} of the homophones, {ENOUGH_SITE_ACCURACY:.0%} is "
            "the least for the demo to test anything; raise teacher_training.max_steps"
        )
    return accuracy


def _gap_points(facts: dict[str, Any]) -> float:
    on_transcripts = facts["on_transcripts"] or facts["after"]
    return float(100 * (on_transcripts["masked_accuracy"] - facts["after"]["masked_accuracy"]))


def _lines(facts: dict[str, Any]) -> list[Any]:
    counts = facts["sentences"]
    done = "trained already, nothing to do" if facts["reused"] else f"trained in {facts['seconds']:.0f} s"
    rows = [
        [name, f"{100 * figures['masked_accuracy']:.1f}", f"{figures['perplexity']:,.1f}"]
        for name, figures in (
            ("held-out text, before", facts["before"]),
            ("held-out text, after", facts["after"]),
            ("labelled transcripts, after", facts["on_transcripts"]),
        )
        if figures is not None
    ]
    lines: list[Any] = [
        f"{facts['folder']}: {done}, {facts['tokens_per_second']:,.0f} tokens/s in {facts['precision']}",
        f"sentences: {counts['kept']:,} kept, {counts['unspeakable']:,} dropped (unspeakable), "
        f"{counts['overlapping']:,} left out (they overlap transcripts)",
        table("", ["masked tokens of", "accuracy %", "perplexity"], rows),
    ]
    gap = _gap_points(facts)
    if abs(gap) > MAX_GAP_POINTS:
        cause = "it may have read them" if gap > 0 else "they are other text than it was trained on"
        lines.append(f"warning: {gap:+.1f} points on the labelled transcripts against held-out text: {cause}")
    if "site_accuracy" in facts:
        shares = ", ".join(
            f"{kind.replace('_', '-')} {value:.1%}" for kind, value in facts["site_accuracy"].items()
        )
        lines.append(f"the teacher prefers the right spelling at the test homophones: {shares}")
    return lines
