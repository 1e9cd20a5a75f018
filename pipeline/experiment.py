"""Several students, one table: every stage of a ladder as a command, students one by one or side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.console import Report
from pipeline.demo.homophones import compare_runs, score_run
from pipeline.errors import PipelineError
from pipeline.experiment_chains import (
    LABELS,
    labels_chain,
    labels_name,
    of_corpus,
    speech_commands,
    speech_stages,
    student_chain,
    trains_beside_students,
    waits_for,
)
from pipeline.files import FILES
from pipeline.jobs.places import Place, places_for, thread_environment
from pipeline.jobs.pool import Chain, known, run_side_by_side
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

Ended = dict[str, Sequence[Mapping[str, Any]]]  # the results of commands, by the name of their chain


def run_experiment(reference: str, roots: Roots, overrides: Sequence[str], jobs: int = 1) -> Report:
    """Every stage of the ladder, each reused where it is there; writes `<runs>/<name>/results.json`.

    jobs : commands that run at the same time, once the speech is prepared. Raises PipelineError, before any
    work for a ladder, config or number of jobs that cannot be.
    """
    ladder = load_ladder(reference)
    trainings = trainings_of(ladder, overrides)
    places = _places(trainings, jobs)
    folder = roots.runs / ladder.name
    known_seconds = _known_seconds(folder / "results.json")
    corpora = list({training.corpus.name: training.corpus for training in trainings}.values())
    ended: Ended = {}
    for corpus in corpora:
        commands = speech_commands(ladder, corpus, roots, overrides)
        ended[of_corpus("speech", corpus.name)] = [run_command(*known(one, {})) for one in commands]
    _run_labels_and_students(ladder, corpora, trainings, roots, overrides, places, ended)
    rows = [_row(training, ladder, roots, *ended[training.run]) for training in trainings]
    accuracy = {one.name: ended[labels_name(one)][0].get("site_accuracy", {}) for one in corpora}
    results = {
        "rows": rows,
        "differences": differences_between(ladder, trainings, roots),
        "seconds": _seconds(corpora, ended, known_seconds, rows),
        "teacher_site_accuracy": _by_corpus(accuracy),
        "provenance": provenance(),
    }
    write_json(folder / "results.json", results)
    return Report(results, [*experiment_tables(results), f"written to {folder / 'results.json'}"])


def _run_labels_and_students(
    ladder: Ladder,
    corpora: Sequence[Corpus],
    trainings: Sequence[Training],
    roots: Roots,
    overrides: Sequence[str],
    places: Sequence[Place],
    ended: Ended,
) -> None:
    """Add what their commands give to `ended`: one by one, or side by side at the places."""
    # a teacher's numbers depend on its threads as a student's do
    threads = trainings[0].config.student.trainer.threads
    labels = {labels_name(one): labels_chain(ladder, one, roots, overrides) for one in corpora}
    beside = {labels_name(one) for one in corpora if trains_beside_students(one, trainings)}
    for name, chain in labels.items():
        if not places or name not in beside:
            ended[name] = _one_by_one(chain, threads, ended)
    students = {one.run: student_chain(one, ladder, roots, overrides) for one in trainings}
    if places:
        chains = {name: chain for name, chain in labels.items() if name not in ended} | students
        after = {one.run: waits_for(one) for one in trainings}
        ended |= run_side_by_side(chains, places, after, ended)
        return
    for training in trainings:
        threads = training.config.student.trainer.threads
        ended[training.run] = _one_by_one(students[training.run], threads, ended)


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


def _one_by_one(chain: Chain, threads: int, ended: Ended) -> list[dict[str, Any]]:
    """The results of a chain's commands; a student is evaluated with the threads that it was trained with."""
    environment = thread_environment(threads)
    return [run_command(*known(command, ended), environment=environment) for command in chain]


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


def _seconds(
    corpora: Iterable[Corpus],
    ended: Ended,
    known_seconds: Mapping[str, float],
    rows: Sequence[Mapping[str, Any]],
) -> dict[str, float]:
    """By stage; stages carry a corpus' name where there are several, students that of their run.

    known_seconds : of an earlier run; they stand for a stage that had nothing to do
    """
    seconds = {}
    for corpus in corpora:
        stages = [*speech_stages(corpus), *LABELS]
        done = [*ended[of_corpus("speech", corpus.name)], *ended[labels_name(corpus)]]
        for stage, result in zip(stages, done, strict=True):
            name = of_corpus(stage, corpus.name)
            is_known = result.get("is_reused") and name in known_seconds
            seconds[name] = round(float(known_seconds[name] if is_known else result["seconds"]), 1)
    return seconds | {f"train_{row['run']}": row["seconds"] for row in rows}


def _by_corpus(facts: Mapping[str, Any]) -> Any:
    """By name where corpora have names, else the only one's."""
    return facts[""] if "" in facts else dict(facts)


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
