"""Several students, one table: every stage of a ladder as a command, students one by one or side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.console import Report
from pipeline.demo.homophones import compare_runs, score_run
from pipeline.errors import PipelineError
from pipeline.files import FILES
from pipeline.jobs.places import Place, places_for, thread_environment
from pipeline.jobs.pool import Chain, run_side_by_side
from pipeline.ladder import Corpus, Ladder, Training, load_ladder, trainings_of
from pipeline.paths import Roots, prepared_folder
from pipeline.processes import run_command
from pipeline.report.experiment_table import experiment_tables
from pipeline.report.word_errors import wer_interval
from pipeline.run_record import provenance
from student.data.manifest import read_manifest
from teacher_cache.common.files import write_json
from teacher_cache.common.small_files import is_there
from teacher_cache.common.typed import convert


@dataclass(frozen=True, slots=True)
class Shared:
    """What the students of one corpus have in common.

    seconds : by stage     cache : its fingerprint
    accuracy : the teacher's at the demo's homophones, by kind; {} elsewhere
    """

    seconds: Mapping[str, float]
    cache: str
    accuracy: Mapping[str, float]


def run_experiment(reference: str, roots: Roots, overrides: Sequence[str], jobs: int = 1) -> Report:
    """Every stage of the ladder, each reused where it is there; writes `<runs>/<name>/results.json`.

    jobs : students that train at the same time. Raises PipelineError, before any work for a ladder, config or
    number of jobs that cannot be.
    """
    ladder = load_ladder(reference)
    trainings = trainings_of(ladder, overrides)
    places = _places(trainings, jobs)
    folder = roots.runs / ladder.name
    known = _known_seconds(folder / "results.json")
    corpora = {training.corpus.name: training.corpus for training in trainings}
    shared = {name: _shared_stages(ladder, one, roots, overrides, known) for name, one in corpora.items()}
    chains = {
        training.run: _chain(training, ladder, roots, overrides, shared[training.corpus.name].cache)
        for training in trainings
    }
    if places:
        after = {training.run: training.begins_with for training in trainings if training.begins_with}
        ended = run_side_by_side(chains, places, after)
    else:
        threads = {training.run: training.config.student.trainer.threads for training in trainings}
        ended = {run: _one_by_one(chain, threads[run]) for run, chain in chains.items()}
    rows = [_row(training, ladder, roots, *ended[training.run]) for training in trainings]
    results = {
        "rows": rows,
        "differences": differences_between(ladder, trainings, roots),
        "seconds": _seconds(shared, rows),
        "teacher_site_accuracy": _by_corpus({name: one.accuracy for name, one in shared.items()}),
        "provenance": provenance(),
    }
    write_json(folder / "results.json", results)
    return Report(results, [*experiment_tables(results), f"written to {folder / 'results.json'}"])


def _places(trainings: Sequence[Training], jobs: int) -> list[Place]:
    """Where the students run side by side; [] for one by one, each with all cores."""
    if jobs < 1:
        raise PipelineError(f"--jobs {jobs}: at least 1, which trains one student at a time")
    if jobs == 1:
        return []
    trainers = {training.run: training.config.student.trainer for training in trainings}
    places = places_for(min(jobs, len(trainings)), [trainer.device for trainer in trainers.values()])
    for run, trainer in trainers.items():
        if trainer.threads > 1 and places[0].threads == 1:
            raise PipelineError(
                f"--jobs {jobs}: students side by side have one thread each, {run} asks for trainer.threads="
                f"{trainer.threads}; give it --set trainer.threads=1, or --jobs 1"
            )
    return places


def _shared_stages(
    ladder: Ladder, corpus: Corpus, roots: Roots, overrides: Sequence[str], known: Mapping[str, float]
) -> Shared:
    """Corpus, manifests, teacher and cache, one after the other with all cores.

    known : seconds of an earlier run; they stand for a stage that had nothing to do
    """
    settings = _options("--set", (*overrides, *corpus.overrides))
    data, cache = ["--data-root", str(roots.data)], ["--cache-root", str(roots.cache)]
    runs, scratch = ["--runs-root", str(roots.runs)], ["--scratch-root", str(roots.scratch)]
    own_name = [] if corpus.cache_name == corpus.config.name else ["--name", corpus.cache_name]
    commands = {
        "corpus": ("data", "demo", ladder.config, *settings, *data),
        "prepare": ("data", "prepare", ladder.config, *settings, *data, *runs),
        "teacher": ("teacher", "train", ladder.config, *settings, *data, *runs, *scratch),
        "cache": ("cache", "build", ladder.config, *own_name, *settings, *data, *cache, *runs),
    }
    if corpus.config.demo_corpus is None:
        del commands["corpus"]
    seconds: dict[str, float] = {}
    results = {}
    for stage, command in commands.items():
        done = results[stage] = run_command(*command)
        before = known.get(_of_corpus(stage, corpus.name), done["seconds"])
        seconds[stage] = round(float(before if done.get("is_reused") else done["seconds"]), 1)
    accuracy = results["teacher"].get("site_accuracy", {})
    return Shared(seconds=seconds, cache=results["cache"]["fingerprint"], accuracy=accuracy)


def _chain(
    training: Training, ladder: Ladder, roots: Roots, overrides: Sequence[str], fingerprint: str
) -> Chain:
    """The commands that train a student, against the cache of its own corpus, and evaluate it."""
    folder = roots.runs / ladder.name
    initial = json.dumps(str(folder / training.begins_with), ensure_ascii=False)
    begins_with = [f"trainer.initial_checkpoint={initial}"] if training.begins_with else []
    settings = _options("--set", (*overrides, *training.overrides, *begins_with))
    run = str(folder / training.run)
    data, runs = ["--data-root", str(roots.data)], ["--runs-root", str(roots.runs)]
    cache = ["--cache", fingerprint, "--cache-root", str(roots.cache)]
    return (
        ("train", ladder.config, *settings, "--run-dir", run, *data, *cache, *runs),
        ("evaluate", run, *_options("--split", ladder.evaluate), *data, *runs),
    )


def _one_by_one(chain: Chain, threads: int) -> list[dict[str, Any]]:
    """The results of a student's commands; it is evaluated with the threads that it was trained with."""
    return [run_command(*command, environment=thread_environment(threads)) for command in chain]


def _row(
    training: Training, ladder: Ladder, roots: Roots, trained: Mapping[str, Any], evaluated: Mapping[str, Any]
) -> dict[str, Any]:
    scores = evaluated["splits"]
    first = scores[ladder.evaluate[0]]
    return {
        "name": training.student,
        "corpus": training.corpus_name,
        "seed": training.seed,
        "run": training.run,
        "begins_with": training.begins_with,
        "wer": first["wer"],
        "cer": first["cer"],
        "steps": trained["steps"],
        "seconds": round(float(trained["seconds"]), 1),
        "splits": scores,
        **_figures(training, ladder, roots),
    }


def _figures(training: Training, ladder: Ladder, roots: Roots) -> dict[str, Any]:
    """What the evaluated transcripts show beyond error rates: homophones of a demo corpus, intervals."""
    run, split = roots.runs / ladder.name / training.run, ladder.evaluate[0]
    if training.config.demo_corpus is None:
        utterances = read_manifest(prepared_folder(training.config, roots) / f"{split}.jsonl")
        return {"intervals": {"wer": wer_interval(run, split, utterances)}}
    return dict(score_run(run, split, roots.data / training.config.data.corpus))


def differences_between(ladder: Ladder, trainings: Sequence[Training], roots: Roots) -> list[dict[str, Any]]:
    """Each student minus the first and minus the one before it: on each demo corpus, and on all together."""
    if any(training.config.demo_corpus is None for training in trainings):
        return []
    names, seeds = ladder.compared, sorted({training.seed for training in trainings})
    corpora = list(dict.fromkeys(training.corpus_name for training in trainings))
    together = [(corpus,) for corpus in corpora] + ([tuple(corpora)] if len(corpora) > 1 else [])
    pairs = [(name, minus) for before, name in pairwise(names) for minus in dict.fromkeys((names[0], before))]

    def runs_of(student: str, chosen: Sequence[str]) -> dict[Path, list[Path]]:
        runs: dict[Path, list[Path]] = {}
        for training in trainings:
            if training.student == student and training.corpus_name in chosen:
                corpus = roots.data / training.config.data.corpus
                runs.setdefault(corpus, []).append(roots.runs / ladder.name / training.run)
        return runs

    return [
        {"student": student, "minus": minus, "corpora": list(chosen), "seeds": seeds}
        | compare_runs(runs_of(student, chosen), runs_of(minus, chosen), ladder.evaluate[0])
        for chosen in together
        for student, minus in pairs
    ]


def _seconds(shared: Mapping[str, Shared], rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """By stage; stages carry a corpus' name where there are several, students that of their run."""
    stages = {
        _of_corpus(stage, name): seconds
        for name, one in shared.items()
        for stage, seconds in one.seconds.items()
    }
    return stages | {f"train_{row['run']}": row["seconds"] for row in rows}


def _of_corpus(stage: str, corpus: str) -> str:
    return f"{stage}_{corpus}" if corpus else stage


def _by_corpus(facts: Mapping[str, Any]) -> Any:
    """By name where corpora have names, else the only one's."""
    return facts[""] if "" in facts else dict(facts)


def _options(option: str, values: Sequence[str]) -> list[str]:
    return [part for value in values for part in (option, value)]


def _known_seconds(path: Path) -> dict[str, float]:
    """Seconds by stage of an earlier run, {} where there was none."""
    if not is_there(path):
        return {}
    advice = "delete it, and run the same command again"
    with FILES.faults_told(path, advice):
        found: dict[str, float] = convert(
            Mapping[str, float], FILES.json(path, advice).get("seconds"), "seconds"
        )
        return found
