"""Rows of an experiment from runs that were made elsewhere: the JSON files of `bert2ctc runs pack`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.comparison.run_facts import Evaluation, RunFacts, read_run
from pipeline.comparison.systems import setting_differences, without_seed
from pipeline.error_rates.transcripts import Transcripts, read_transcripts
from pipeline.errors import PipelineError
from pipeline.experiments.ladder import Ladder, Training
from pipeline.experiments.rows import Row, judged, row_label
from pipeline.paths import Roots
from pipeline.run_record import run_of
from student.inference.evaluation_files import evaluation_folder
from student.metrics import count_errors
from teacher_cache.settings import shown_value

_OF_A_PLACE = {"trainer.initial_checkpoint"}  # a path: another on every machine, and for every seed


def packed_runs(folder: Path, roots: Roots) -> list[RunFacts]:
    """The runs of a folder's JSON files, by their names. Raises PipelineError where there is none."""
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not files:
        raise PipelineError(
            f"--with {folder}: no folder of JSON files; make them with `bert2ctc runs pack RUN FILE`"
        )
    return [read_run(path, roots) for path in files]


def rows_elsewhere(
    runs: Sequence[RunFacts], ladder: Ladder, trainings: Sequence[Training], roots: Roots
) -> list[Row]:
    """Their rows, one a decoder that heard the ladder's first split.

    A run is of the ladder's student that it is named after where no setting differs but what a seed's
    training has of its own; else it is a student by its own name.
    Raises PipelineError for another corpus or other utterances, for a run without that split, and for a
    student's seed that there is already.
    """
    rows: list[Row] = []
    taken = {(one.student, one.corpus_name, one.seed) for one in trainings}
    for facts in runs:
        beside = _corpus_of(facts, trainings)
        student = _student_of(facts, ladder, trainings, roots)
        key = student, beside.corpus_name, facts.seed
        if key in taken:
            raise PipelineError(
                f"--with: {facts.name} is {student} with seed {facts.seed}, which the table has already; "
                "leave its file out"
            )
        taken.add(key)
        split = ladder.evaluate[0]
        heard = {name: splits[split] for name, splits in facts.evaluations.items() if split in splits}
        if not heard:
            raise PipelineError(
                f"--with: {facts.name} was not evaluated on {split}; evaluate it there and pack it again"
            )
        own = roots.runs / ladder.name / beside.run
        folder = evaluation_folder(own, ladder.decoders[beside.student][0])
        references = read_transcripts(folder, split).references
        for decoder, evaluation in heard.items():
            transcripts = _transcripts(facts, evaluation, references)
            figures, counts = judged(transcripts, split, beside.config, roots)
            entry = _entry(facts, student, decoder, evaluation, transcripts) | {
                "corpus": beside.corpus_name,
                "splits": {name: one.scores for name, one in facts.evaluations[decoder].items()},
                **figures,
            }
            rows.append(Row(counts=counts, entry=entry))
    return rows


def _entry(
    facts: RunFacts, student: str, decoder: str, evaluation: Evaluation, transcripts: Transcripts
) -> dict[str, Any]:
    ids = list(transcripts.references)
    errors = count_errors(
        [transcripts.references[one] for one in ids], [transcripts.hypotheses[one] for one in ids]
    )
    speed = evaluation.scores.get("speed", {})
    return {
        "name": row_label(student, decoder),
        "student": student,
        "decoder": decoder,
        "seed": facts.seed,
        "run": facts.name,
        "begins_with": "",
        "is_elsewhere": True,
        "wer": errors.wer,
        "cer": errors.cer,
        "steps": facts.result.get("steps"),
        "seconds": facts.result.get("seconds"),
        "encoder_seconds": speed.get("encoder_seconds"),
        "decoder_seconds": speed.get("decoder_seconds"),
    }


def _corpus_of(facts: RunFacts, trainings: Sequence[Training]) -> Training:
    """The ladder's first training on the corpus that the run was trained on."""
    corpus = facts.config.get("data", {}).get("corpus", "")
    for training in trainings:
        if training.config.data.corpus == corpus:
            return training
    known = ", ".join(dict.fromkeys(training.config.data.corpus for training in trainings))
    raise PipelineError(
        f"--with: {facts.name} is of corpus {shown_value(corpus)}, the ladder of {known}; leave its file out"
    )


def _student_of(facts: RunFacts, ladder: Ladder, trainings: Sequence[Training], roots: Roots) -> str:
    """The ladder's student of the run's name, where their settings are equal; else the run's own name."""
    named, corpus = without_seed(Path(facts.name).name), _corpus_of(facts, trainings).corpus_name
    for training in trainings:
        if without_seed(training.run) == named and training.corpus_name == corpus:
            record = run_of(roots.runs / ladder.name / training.run)
            own = RunFacts(name=training.run, config=record["config"], cache=record.get("cache", ""))
            if not setting_differences(own, facts).keys() - _OF_A_PLACE:
                return training.student
    return without_seed(facts.name)


def _transcripts(facts: RunFacts, evaluation: Evaluation, references: Mapping[str, str]) -> Transcripts:
    """Its hypotheses beside our references, which must be its own where it holds them."""
    heard = {one.id: one for one in evaluation.utterances}
    odd = sorted(heard.keys() ^ references.keys())
    odd = odd or [one for one, said in references.items() if heard[one].reference not in ("", said)]
    if odd:
        raise PipelineError(
            f"--with: {facts.name} was evaluated on other utterances, {shown_value(odd[0])} first of "
            f"{len(odd):,}; evaluate both on one and the same split"
        )
    return Transcripts(references, {one: heard[one].hypothesis for one in references})
