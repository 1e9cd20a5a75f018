"""Several students, one table: every stage of a ladder as a command, students one by one or side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.comparison.run_facts import RunFacts
from pipeline.console import Report
from pipeline.errors import PipelineError
from pipeline.experiments.chains import (
    LABELS,
    decoding_chain,
    decoding_name,
    decoding_waits_for,
    fused_decoders,
    labels_chain,
    labels_name,
    language_model_chains,
    of_corpus,
    speech_commands,
    speech_stages,
    student_chain,
    trains_beside_students,
    waits_for,
)
from pipeline.experiments.elsewhere import packed_runs, rows_elsewhere
from pipeline.experiments.ladder import Corpus, Ladder, Training, load_ladder, trainings_of
from pipeline.experiments.rows import Row, differences_between, rows_of
from pipeline.files import FILES
from pipeline.jobs.places import Place, places_for, thread_environment
from pipeline.jobs.pool import Chain, known, run_side_by_side
from pipeline.paths import Roots
from pipeline.processes import is_reused, run_command
from pipeline.report.experiment_table import experiment_tables
from pipeline.report.markdown import as_markdown
from pipeline.run_record import provenance
from teacher_cache.common.files import write_json, write_whole
from teacher_cache.common.small_files import is_there
from teacher_cache.common.typed import convert

Ended = dict[str, Sequence[Mapping[str, Any]]]  # the results of commands, by the name of their chain


@dataclass(frozen=True, slots=True)
class Work:
    """What an experiment does: a ladder's trainings, where they lie, and what `--set` changes for all."""

    ladder: Ladder
    trainings: Sequence[Training]
    roots: Roots
    overrides: Sequence[str]

    @property
    def corpora(self) -> list[Corpus]:
        """Each once."""
        return list({training.corpus.name: training.corpus for training in self.trainings}.values())


def run_experiment(
    reference: str, roots: Roots, overrides: Sequence[str], jobs: int = 1, elsewhere: Path | None = None
) -> Report:
    """Every stage of the ladder, each reused where it is there; writes results.json and results.md.

    jobs : commands that run at the same time, once the speech is prepared     elsewhere : a folder of JSON
    files of other runs, whose rows the table takes
    Both files lie in `<runs>/<name>`. Raises PipelineError, before any work for a ladder, config or number
    of jobs that cannot be.
    """
    ladder = load_ladder(reference)
    work = Work(ladder, trainings_of(ladder, overrides), roots, overrides)
    places = _places(work.trainings, jobs)
    others = [] if elsewhere is None else packed_runs(elsewhere, roots)
    folder = roots.runs / ladder.name
    known_seconds = _known_seconds(folder / "results.json")
    ended: Ended = {}
    for corpus in work.corpora:
        commands = speech_commands(ladder, corpus, roots, overrides)
        ended[of_corpus("speech", corpus.name)] = [run_command(*known(one, {})) for one in commands]
    _run_chains(work, places, ended)
    results = _results(work, ended, known_seconds, others)
    shown = experiment_tables(results)
    write_json(folder / "results.json", results)
    write_whole(folder / "results.md", as_markdown(shown))
    return Report(results, [*shown, f"written to {folder / 'results.json'} and results.md"])


def _run_chains(work: Work, places: Sequence[Place], ended: Ended) -> None:
    """Add to `ended` what all commands after the speech give: one by one, or side by side at the places."""
    ladder, trainings, roots = work.ladder, work.trainings, work.roots
    # a teacher's numbers depend on its threads as a student's do
    threads = dict.fromkeys(map(labels_name, work.corpora), trainings[0].config.student.trainer.threads)
    labels = {labels_name(one): labels_chain(ladder, one, roots, work.overrides) for one in work.corpora}
    beside = {labels_name(one) for one in work.corpora if trains_beside_students(one, trainings)}
    for name, chain in labels.items():
        if not places or name not in beside:
            ended[name] = _one_by_one(chain, threads[name], ended)
    chains = {name: chain for name, chain in labels.items() if name not in ended}
    after: dict[str, Sequence[str]] = {}
    for training in trainings:
        chains[training.run] = student_chain(training, ladder, roots, work.overrides)
        after[training.run] = waits_for(training)
        threads[training.run] = training.config.student.trainer.threads
    # students first: whoever waits for them waits longest
    chains |= language_model_chains(trainings, ladder, roots, work.overrides)
    for training in trainings:
        if fused_decoders(training, ladder):
            name = decoding_name(training)
            chains[name] = decoding_chain(training, ladder, roots)
            after[name] = decoding_waits_for(training, ladder, roots)
            threads[name] = threads[training.run]
    if places:
        ended |= run_side_by_side(chains, places, after, ended)
        return
    for name, chain in chains.items():
        ended[name] = _one_by_one(chain, threads.get(name, threads[trainings[0].run]), ended)


def _results(
    work: Work, ended: Ended, known_seconds: Mapping[str, float], others: Sequence[RunFacts]
) -> dict[str, Any]:
    """The whole results.json."""
    rows: list[Row] = []
    for training in work.trainings:
        decoded = ended.get(decoding_name(training), ended[training.run])
        trained = ended[training.run][0]
        rows += rows_of(training, work.ladder, work.roots, trained, decoded[-1]["rows"])
    rows += rows_elsewhere(others, work.ladder, work.trainings, work.roots)
    accuracy = {one.name: ended[labels_name(one)][0].get("site_accuracy", {}) for one in work.corpora}
    return {
        "rows": [row.entry for row in rows],
        "differences": differences_between(rows, set(work.ladder.begins_with.values())),
        "seconds": _seconds(work, ended, known_seconds),
        "teacher_site_accuracy": _by_corpus(accuracy),
        "provenance": provenance(),
    }


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


def _seconds(work: Work, ended: Ended, known_seconds: Mapping[str, float]) -> dict[str, float]:
    """By stage; stages carry a corpus' name where there are several, students that of their run.

    known_seconds : of an earlier run; they stand for a stage that had nothing to do
    """
    seconds: dict[str, float] = {}

    def note(name: str, *results: Mapping[str, Any]) -> None:
        is_known = all(map(is_reused, results)) and name in known_seconds
        spent = sum(float(result["seconds"]) for result in results)
        seconds[name] = known_seconds[name] if is_known else round(spent, 1)

    for corpus in work.corpora:
        stages = [*speech_stages(corpus), *LABELS]
        done = [*ended[of_corpus("speech", corpus.name)], *ended[labels_name(corpus)]]
        for stage, result in zip(stages, done, strict=True):
            note(of_corpus(stage, corpus.name), result)
    for training in work.trainings:
        name, decoded = training.run, ended.get(decoding_name(training), [])
        seconds[f"train_{name}"] = round(float(ended[name][0]["seconds"]), 1)
        note(f"decode_{name}", *(decoded or ended[name][1:]))
    for name in language_model_chains(work.trainings, work.ladder, work.roots, work.overrides):
        note(name.replace(" ", "_"), *ended[name])
    return seconds


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
