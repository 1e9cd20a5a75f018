"""What an experiment runs, as commands: speech, labels, language models, students; and who waits for whom."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pipeline.experiments.ladder import Corpus, Ladder, Training
from pipeline.jobs.pool import Chain, Later
from pipeline.language_model.kinds import NETWORK, UNITS, WORDS
from pipeline.paths import Roots, language_model_folder
from student.decoding import names

_KIND_OF = {names.BEAM_NGRAM: UNITS, names.BEAM_LM: NETWORK, names.WORDS: WORDS}  # decoder -> language model
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
    """The commands that train a student, with its corpus' cache if it has a branch, and evaluate it.

    Not the latter where a decoder waits for a language model: `decoding_chain` has it then.
    """
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
    train = ("train", ladder.config, *settings, "--run-dir", run, *data, *cache, *runs)
    return [train] if fused_decoders(training, ladder) else [train, _evaluation(training, ladder, roots)]


def decoding_name(training: Training) -> str:
    """What the chain is called that decodes a student with language models; no run is: there is a space."""
    return f"{training.run} decoded"


def decoding_chain(training: Training, ladder: Ladder, roots: Roots) -> Chain:
    """The commands that tune a trained student's decoders with language models, and evaluate it by all."""
    tune: list[str | Later] = ["tune", str(roots.runs / ladder.name / training.run), "--reuse"]
    for decoder, kind in fused_decoders(training, ladder).items():
        tune += [
            f"--{decoder.replace('_', '-')}",
            Later(language_model_name(training, roots, kind), "folder"),
        ]
        if decoder in ladder.tuning.beams:
            tune += ["--beam", f"{decoder}={ladder.tuning.beams[decoder]}"]
    if ladder.tuning.utterances:
        tune += ["--utterances", str(ladder.tuning.utterances)]
    data, runs = ["--data-root", str(roots.data)], ["--runs-root", str(roots.runs)]
    return [(*tune, *data, *runs), _evaluation(training, ladder, roots)]


def fused_decoders(training: Training, ladder: Ladder) -> dict[str, str]:
    """The student's decoders with a language model, each with the kind of it."""
    own = ladder.decoders[training.student]
    return {decoder: kind for decoder, kind in _KIND_OF.items() if decoder in own}


def language_model_chains(
    trainings: Sequence[Training], ladder: Ladder, roots: Roots, overrides: Sequence[str]
) -> dict[str, Chain]:
    """By name, the commands that make the language models of all decoders: equal ones once."""
    chains: dict[str, Chain] = {}
    for training in trainings:
        for kind in fused_decoders(training, ladder).values():
            name, corpus = language_model_name(training, roots, kind), training.corpus
            of_corpus = language_model_folder(corpus.config, roots, kind)
            is_of_corpus = of_corpus == language_model_folder(training.config, roots, kind)
            own = corpus.overrides if is_of_corpus else training.overrides
            settings = _options("--set", (*overrides, *own))
            data, runs = ["--data-root", str(roots.data)], ["--runs-root", str(roots.runs)]
            made = (
                ("lm", "train", ladder.config, *settings, *data, *runs, "--scratch-root", str(roots.scratch))
                if kind == NETWORK
                else ("lm", "ngram", ladder.config, "--of", kind, *settings, *data, *runs)
            )
            chains.setdefault(name, [made])
    return chains


def language_model_name(training: Training, roots: Roots, kind: str) -> str:
    """What the chain of a student's language model of a kind is called; no run is: there are spaces."""
    return f"language model {language_model_folder(training.config, roots, kind).name}"


def _evaluation(training: Training, ladder: Ladder, roots: Roots) -> Sequence[str]:
    run = str(roots.runs / ladder.name / training.run)
    decoders = _options("--decoder", ladder.decoders[training.student])
    data, runs = ["--data-root", str(roots.data)], ["--runs-root", str(roots.runs)]
    return ("evaluate", run, *_options("--split", ladder.evaluate), *decoders, "--reuse", *data, *runs)


def needs_labels(training: Training) -> bool:
    """Hard labels are of the teacher's pieces too."""
    return training.config.student.objective.uses_branch


def decoding_waits_for(training: Training, ladder: Ladder, roots: Roots) -> list[str]:
    """The chains that must have ended before `decoding_chain` begins."""
    kinds = fused_decoders(training, ladder).values()
    return [training.run, *(language_model_name(training, roots, kind) for kind in kinds)]


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
