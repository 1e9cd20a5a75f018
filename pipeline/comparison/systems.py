"""Runs as systems on one test set: seeds of one configuration together, every text in the same order."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.comparison.run_facts import Evaluation, HeardUtterance, RunFacts
from pipeline.errors import PipelineError
from pipeline.run_record import with_defaults
from student.decoding.names import GREEDY
from student.metrics import WordPair, align_words
from teacher_cache.common.differences import differences
from teacher_cache.settings import shown_value

# Of the same student: its noise, and what only decides where and how fast it is trained.
_OF_A_TRAINING = ("seed", "device", "threads", "data_workers")
_SEED_IN_NAME = re.compile(r"[-_]seed[-_]?\d+")
_DEV = "dev"


@dataclass(frozen=True, slots=True)
class SharedSplit:
    """What all were asked.

    ids, speakers, references : (U,), in the order of the first run's evaluation     words : int64 (U,)
    speakers : as the evaluation names them, else ids up to their first hyphen, as in LibriSpeech; () where
        there is neither
    """

    split: str
    ids: tuple[str, ...]
    speakers: tuple[str, ...]
    references: tuple[str, ...]
    words: np.ndarray

    @property
    def num_speakers(self) -> int:
        """How many there are."""
        return len(set(self.speakers))


@dataclass(frozen=True, slots=True)
class System:
    """One configuration with one decoder.

    runs : a run a seed     alignments : of each, utterance by utterance     errors : int64 (runs, U)
    """

    name: str
    decoder: str
    runs: tuple[RunFacts, ...]
    alignments: tuple[list[list[WordPair]], ...]
    errors: np.ndarray

    def wer(self, test_set: SharedSplit) -> float:
        """The mean over the runs."""
        return float(self.errors.sum() / len(self.runs) / test_set.words.sum())


def systems_of(chosen: Sequence[tuple[RunFacts, str]], split: str = "") -> tuple[SharedSplit, list[System]]:
    """The test set and the configurations, in the order in which they are named first.

    chosen : runs, each with a decoder     split : "" for the only one but dev that all were evaluated on
    Raises PipelineError for a run named twice, a split or a decoder that was not evaluated, utterances or
    references that are not the same for all.
    """
    for facts, decoder in chosen:
        if decoder not in facts.evaluations:
            known = ", ".join(facts.evaluations) or "none"
            raise PipelineError(
                f"{facts.name}: not evaluated with decoder {decoder!r}, with {known}; evaluate it first with "
                f"`bert2ctc evaluate {shlex.quote(facts.name)}`"
            )
    split = split or _only_split(chosen)
    evaluations = [_evaluation(facts, decoder, split) for facts, decoder in chosen]
    test_set = _test_set(split, [facts for facts, _ in chosen], evaluations)
    found = []
    for members in _grouped(chosen):
        runs = tuple(chosen[index][0] for index in members)
        texts = [_in_order(evaluations[index], test_set) for index in members]
        aligned = tuple(align_words(test_set.references, heard) for heard in texts)
        errors = [[sum(pair.operation != "" for pair in pairs) for pairs in rows] for rows in aligned]
        decoder = chosen[members[0]][1]
        found.append(System(_name(runs, decoder), decoder, runs, aligned, np.array(errors)))
    return test_set, found


def _grouped(chosen: Sequence[tuple[RunFacts, str]]) -> list[list[int]]:
    """Indices of runs that differ in nothing but their training's seed and place."""
    groups: list[list[int]] = []
    for index, (facts, decoder) in enumerate(chosen):
        for group in groups:
            other, other_decoder = chosen[group[0]]
            if decoder == other_decoder and not setting_differences(facts, other):
                same = next((chosen[one][0] for one in group if chosen[one][0].seed == facts.seed), None)
                if same is not None:
                    raise PipelineError(
                        f"{facts.name} and {same.name} are one configuration with one seed, {facts.seed}; "
                        "name one of them, or train with another trainer.seed"
                    )
                group.append(index)
                break
        else:
            groups.append([index])
    return groups


def without_seed(name: str) -> str:
    """A run's name as all seeds of it share it."""
    return _SEED_IN_NAME.sub("", name)


def setting_differences(one: RunFacts, other: RunFacts) -> dict[str, tuple[Any, Any]]:
    """Settings and cache in which two runs differ, but for what belongs to a training."""
    return differences(_settings(one), _settings(other))


def _settings(facts: RunFacts) -> dict[str, Any]:
    tables: dict[str, Any] = with_defaults(facts.config)
    trainer = {key: value for key, value in tables.get("trainer", {}).items() if key not in _OF_A_TRAINING}
    trainer["initial_checkpoint"] = _begins_with(facts)
    return {**tables, "trainer": trainer, "cache fingerprint": facts.cache}


def _begins_with(facts: RunFacts) -> str:
    """What a run began from, as ladder and run without the seed: each seed has a base of its own."""
    path = Path(facts.initial_checkpoint)
    folder = path.parent if path.suffix == ".pt" else path
    folder = folder.parent if folder.name == "checkpoints" else folder
    return without_seed("/".join(folder.parts[-2:]))


def _name(facts: Sequence[RunFacts], decoder: str) -> str:
    names = dict.fromkeys(without_seed(one.name) if len(facts) > 1 else one.name for one in facts)
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return next(iter(names)) + others + ("" if decoder == GREEDY else f"@{decoder}")


def _only_split(chosen: Sequence[tuple[RunFacts, str]]) -> str:
    evaluated = [set(facts.evaluations[decoder]) for facts, decoder in chosen]
    common = sorted(set.intersection(*evaluated) - {_DEV})
    if len(common) == 1:
        return common[0]
    if not common:
        lacking = next(
            (facts for (facts, _), splits in zip(chosen, evaluated, strict=True) if not splits - {_DEV}),
            chosen[0][0],
        )
        raise PipelineError(
            f"no split but dev on which all {len(chosen)} runs were evaluated; evaluate each with "
            f"`bert2ctc evaluate {shlex.quote(lacking.name)}`, or choose --split dev"
        )
    raise PipelineError(f"the runs have {', '.join(common)} in common; choose one with --split")


def _evaluation(facts: RunFacts, decoder: str, split: str) -> Evaluation:
    splits = facts.evaluations[decoder]
    if split not in splits:
        known = ", ".join(splits) or "none"
        raise PipelineError(
            f"{facts.name}: not evaluated on split {split!r}, on {known}; evaluate it first with "
            f"`bert2ctc evaluate {shlex.quote(facts.name)} --split {shlex.quote(split)}`"
        )
    return splits[split]


def _test_set(split: str, runs: Sequence[RunFacts], evaluations: Sequence[Evaluation]) -> SharedSplit:
    ids = tuple(utterance.id for utterance in evaluations[0].utterances)
    known: dict[str, HeardUtterance] = {}
    for facts, evaluation in zip(runs, evaluations, strict=True):
        own = {utterance.id: utterance for utterance in evaluation.utterances}
        if own.keys() != set(ids):
            odd = sorted(own.keys() ^ set(ids))
            raise PipelineError(
                f"{runs[0].name} and {facts.name} were not evaluated on the same utterances of {split}: "
                f"{shown_value(odd[0])} is in one alone, {len(odd):,} such; prepare and evaluate both alike"
            )
        for utterance in evaluation.utterances:
            first = known.setdefault(utterance.id, utterance) if utterance.reference else utterance
            if utterance.reference and first.reference != utterance.reference:
                raise PipelineError(
                    f"{facts.name}: the reference of {shown_value(utterance.id)} is not that of the others; "
                    "other corpus?"
                )
    absent = next((one for one in ids if one not in known), None)
    if absent is not None:
        raise PipelineError(
            f"none of the runs holds the reference of {shown_value(absent)}; name one that was evaluated "
            "here as well"
        )
    references = tuple(known[one].reference for one in ids)
    speakers = tuple(known[one].speaker or one.partition("-")[0] for one in ids)
    has_speakers = all(known[one].speaker or "-" in one for one in ids)
    words = np.array([len(text.split()) for text in references])
    return SharedSplit(split, ids, speakers if has_speakers else (), references, words)


def _in_order(evaluation: Evaluation, test_set: SharedSplit) -> list[str]:
    heard: Mapping[str, str] = {one.id: one.hypothesis for one in evaluation.utterances}
    return [heard[one] for one in test_set.ids]
