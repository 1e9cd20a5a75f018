"""What an experiment runs, as commands: speech, its labels, its students, and who waits for whom."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pipeline.jobs.pool import Chain, Later
from pipeline.ladder import Corpus, Ladder, Training
from pipeline.paths import Roots

SPEECH, LABELS = ("corpus", "prepare"), ("teacher", "cache")  # stages, in the order of their commands


def speech_stages(corpus: Corpus) -> tuple[str, ...]:
    """The stages of `speech_commands`, by which their seconds are told."""
    return SPEECH if corpus.config.demo_corpus is not None else SPEECH[1:]


def speech_commands(ladder: Ladder, corpus: Corpus, roots: Roots, overrides: Sequence[str]) -> Chain:
    """Corpus, where it is made on the spot, manifests and units: what everything else needs."""
    settings = _options("--set", (*overrides, *corpus.overrides))
    data, runs = ["--data-root", str(roots.data)], ["--runs-root", str(roots.runs)]
    commands = {
        "corpus": ("data", "demo", ladder.config, *settings, *data),
        "prepare": ("data", "prepare", ladder.config, *settings, *data, *runs),
    }
    return [commands[stage] for stage in speech_stages(corpus)]


def labels_name(corpus: Corpus) -> str:
    """What the chain of a corpus' teacher and cache is called; no run is: there are spaces in it."""
    return " ".join(filter(None, ("teacher and cache", corpus.name)))


def labels_chain(ladder: Ladder, corpus: Corpus, roots: Roots, overrides: Sequence[str]) -> Chain:
    """Teacher and cache of a corpus."""
    settings = _options("--set", (*overrides, *corpus.overrides))
    data, cache = ["--data-root", str(roots.data)], ["--cache-root", str(roots.cache)]
    runs, scratch = ["--runs-root", str(roots.runs)], ["--scratch-root", str(roots.scratch)]
    own_name = [] if corpus.cache_name == corpus.config.name else ["--name", corpus.cache_name]
    return [
        ("teacher", "train", ladder.config, *settings, *data, *runs, *scratch),
        ("cache", "build", ladder.config, *own_name, *settings, *data, *cache, *runs),
    ]


def student_chain(training: Training, ladder: Ladder, roots: Roots, overrides: Sequence[str]) -> Chain:
    """The commands that train a student, with its corpus' cache if it has a branch, and evaluate it."""
    folder = roots.runs / ladder.name
    settings = _options("--set", (*overrides, *training.overrides))
    if training.begins_with:
        initial = json.dumps(str(folder / training.begins_with), ensure_ascii=False)
        settings += ["--set", f"trainer.initial_checkpoint={initial}"]
    run = str(folder / training.run)
    data, runs = ["--data-root", str(roots.data)], ["--runs-root", str(roots.runs)]
    fingerprint = Later(labels_name(training.corpus), "fingerprint")
    cache: list[str | Later] = (
        ["--cache", fingerprint, "--cache-root", str(roots.cache)] if needs_labels(training) else []
    )
    return [
        ("train", ladder.config, *settings, "--run-dir", run, *data, *cache, *runs),
        ("evaluate", run, *_options("--split", ladder.evaluate), *data, *runs),
    ]


def needs_labels(training: Training) -> bool:
    """Hard labels are of the teacher's pieces too."""
    return training.config.student.objective.uses_branch


def waits_for(training: Training) -> list[str]:
    """The chains that must have ended before this student's begins."""
    labels = [labels_name(training.corpus)] if needs_labels(training) else []
    return labels + ([training.begins_with] if training.begins_with else [])


def trains_beside_students(corpus: Corpus, trainings: Sequence[Training]) -> bool:
    """Whether the corpus' teacher is so small, made here, that it takes one place while students take others.

    Else teacher and cache come first, with every core and GPU.
    """
    own = [training for training in trainings if training.corpus.name == corpus.name]
    return corpus.config.teacher_training is not None and not all(map(needs_labels, own))


def of_corpus(stage: str, corpus: str) -> str:
    """A stage's name, with that of its corpus where there are several."""
    return f"{stage}_{corpus}" if corpus else stage


def _options(option: str, values: Sequence[str]) -> list[str]:
    return [part for value in values for part in (option, value)]
