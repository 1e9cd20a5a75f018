"""A ladder file: which students are compared, on which corpora, with which seeds; checked before any work."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import CONFIG_FOLDER, OF_A_CACHE, ExperimentConfig, as_tables, load_config
from pipeline.errors import PipelineError
from pipeline.experiments.ladder_decoders import (
    DEV,
    TuningSettings,
    decoders_of,
    fused_students,
    tuning_of,
    value_list,
)
from pipeline.files import FILES
from pipeline.toml_value import toml_value
from student.config import weight_shapes
from teacher_cache.common.differences import differences, listed, phrases
from teacher_cache.common.typed import Fault, refuse_unknown
from teacher_cache.settings import NAME_RULE, is_name, shown_value

SEED = "trainer.seed"
_BEGINS_WITH, _INITIAL_CHECKPOINT = "begins_with", "trainer.initial_checkpoint"
_OF_A_LADDER = (_BEGINS_WITH, "decoders")  # keys of a student's table that are no settings
# Tables that speech, teacher and cache are made from, once for all students of a corpus
_OF_A_CORPUS = ("demo_corpus", "data", *OF_A_CACHE)
_KEYS = ("config", "evaluate", "seeds", "settings", "decoders", "tuning", "corpora", "students")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """The students of one experiment, in the order in which they are trained.

    students : by name, what differs from the config, the file's [settings] included
    corpora : the same of corpora, for everything that is made of them, the students too; {} where the
    config's own is the only one
    seeds : values of trainer.seed, each of which every student is trained with; () for the config's own
    begins_with : student -> the one above it with whose last weights it begins; both with one seed
    decoders : student -> names of the decoders that it is evaluated by     tuning : of those with weights
    """

    name: str
    path: Path
    config: str
    evaluate: tuple[str, ...]
    students: Mapping[str, Mapping[str, Any]]
    corpora: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    begins_with: Mapping[str, str]
    decoders: Mapping[str, tuple[str, ...]]
    tuning: TuningSettings

    @property
    def compared(self) -> tuple[str, ...]:
        """The students without those that only serve as the beginning of others."""
        bases = set(self.begins_with.values())
        return tuple(name for name in self.students if name not in bases)


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A corpus of an experiment. name : "" for the config's own     overrides : section.key=value"""

    name: str
    overrides: tuple[str, ...]
    config: ExperimentConfig

    @property
    def cache_name(self) -> str:
        """What its cache is called: as the config, or by a name of its own where something differs."""
        own = self.name and self.overrides
        return f"{self.config.name}-{self.name}" if own else self.config.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One student on one corpus with one seed.

    run : the folder's name     overrides : section.key=value, all that differ from the ladder's config
    begins_with : the run whose last weights it begins with, trained before it; "" for none
    """

    student: str
    corpus: Corpus
    run: str
    begins_with: str
    overrides: tuple[str, ...]
    config: ExperimentConfig

    @property
    def corpus_name(self) -> str:
        """As the ladder names it, else the folder below the data root."""
        return self.corpus.name or self.config.data.corpus

    @property
    def seed(self) -> int:
        """Of weights, order, augmentation and dropout."""
        return self.config.student.trainer.seed


def load_ladder(reference: str) -> Ladder:
    """The ladder of a shipped name or a TOML path. Raises PipelineError for anything it does not know."""
    shipped = CONFIG_FOLDER / "ladders" / f"{reference}.toml"
    path = shipped if os.path.isfile(shipped) else Path(reference)  # False for what can be no name, too
    if not os.path.isfile(path):
        known = sorted(entry.stem for entry in (CONFIG_FOLDER / "ladders").glob("*.toml"))
        shown = shown_value(reference)
        raise PipelineError(f"no ladder {shown}: neither a TOML file nor one of {', '.join(known)}")
    tables = FILES.toml(path, "mend it, or name another ladder")
    try:
        return _from_tables(path, tables)
    except (PipelineError, Fault) as error:
        raise PipelineError(f"{path}: {error}") from None


def _from_tables(path: Path, tables: Mapping[str, Any]) -> Ladder:
    refuse_unknown(tables, list(_KEYS), "key")
    if not is_name(path.stem):
        raise PipelineError(
            f"{shown_value(path.stem)} is no name, and a ladder's file must have one: {NAME_RULE}"
        )
    config = tables.get("config")
    if not isinstance(config, str) or not config:
        raise PipelineError(
            f"config = {shown_value(config)} must name a config, shipped or beside the ladder"
        )
    students = _named_tables(tables, "students")
    if not students:
        raise PipelineError("a ladder needs at least one [students.NAME] table")
    begins_with = _bases(students)
    settings = tables.get("settings", {})
    if not isinstance(settings, dict):
        raise PipelineError(f"settings = {shown_value(settings)} must be a table: [settings]")
    return Ladder(
        name=path.stem,
        path=path,
        config=str((path.parent / config).resolve()) if config.endswith(".toml") else config,
        evaluate=value_list(tables, "evaluate", str, ("dev",)),
        students={name: settings | _without(table, _OF_A_LADDER) for name, table in students.items()},
        begins_with=begins_with,
        corpora=_named_tables(tables, "corpora"),
        seeds=value_list(tables, "seeds", int, ()),
        decoders=decoders_of(tables, students),
        tuning=tuning_of(tables),
    )


def _named_tables(tables: Mapping[str, Any], key: str) -> dict[str, Mapping[str, Any]]:
    named = tables.get(key, {})
    if not isinstance(named, dict) or (key in tables and not named):
        raise PipelineError(f"{key} = {shown_value(named)} must be tables: [{key}.NAME]")
    for name, table in named.items():
        if not is_name(name):
            raise PipelineError(f"{key}: {shown_value(name)} is no name: {NAME_RULE}")
        if not isinstance(table, dict):
            raise PipelineError(f"{key}.{name} = {shown_value(table)} is not a table")
    return named


def _bases(students: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Each student's base by name, one that stands above it: no circle can be written down."""
    bases, above = {}, list[str]()
    for name, table in students.items():
        if _BEGINS_WITH in table:
            base = table[_BEGINS_WITH]
            if base not in above:
                known = ", ".join(above) or "none"
                raise PipelineError(
                    f"students.{name}: {_BEGINS_WITH} = {shown_value(base)} must be a student above it: "
                    f"{known}"
                )
            if _INITIAL_CHECKPOINT in table:
                raise PipelineError(
                    f"students.{name}: {_BEGINS_WITH} and {_INITIAL_CHECKPOINT} both say what it begins "
                    "with; leave one out"
                )
            bases[name] = base
        above.append(name)
    return bases


def _without(table: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name not in keys}


def corpora_of(ladder: Ladder, overrides: Sequence[str]) -> tuple[Corpus, ...]:
    """The ladder's corpora with their configs; one without a name where it lists none.

    overrides : section.key=value for everything. Raises PipelineError where a config refuses them, or lacks
    a split that is to be evaluated.
    """
    made = []
    for name, changes in (ladder.corpora or {"": {}}).items():
        own = _settings(changes)
        config = _load(ladder, f"corpora.{name}" if name else "", (*overrides, *own))
        missing = [split for split in ladder.evaluate if split not in config.data.splits]
        if missing:
            known = ", ".join(config.data.splits)
            raise PipelineError(
                f"{ladder.path}: evaluate names {', '.join(missing)}; {config.name} has {known}"
            )
        if DEV not in config.data.splits and (fused := fused_students(ladder.decoders)):
            raise PipelineError(
                f"{ladder.path}: the decoders of {fused[0]} are tuned on {DEV}, which {config.name} lacks; "
                "give it one, or leave them out"
            )
        made.append(Corpus(name=name, overrides=own, config=config))
    return tuple(made)


def trainings_of(ladder: Ladder, overrides: Sequence[str]) -> tuple[Training, ...]:
    """Every student with every seed on every corpus, its config loaded: faults are told before any work.

    In the order corpora, seeds, students: a seed's comparison is whole before the next begins.
    Raises PipelineError for a student that no config allows, or that wants speech or labels of its own, a
    seed that is set twice, and two trainings that would share a folder.
    """
    if ladder.seeds:
        _refuse_other_seeds(ladder, overrides)
    made = []
    for corpus in corpora_of(ladder, overrides):
        for seed in ladder.seeds or (None,):
            for student, changes in ladder.students.items():
                own = (*corpus.overrides, *_settings(changes))
                own = own if seed is None else (*own, f"{SEED}={seed}")
                config = _load(ladder, f"students.{student}", (*overrides, *own))
                base = ladder.begins_with.get(student)
                made.append(
                    Training(
                        student=student,
                        corpus=corpus,
                        run=_run_name(student, seed, corpus),
                        begins_with=_run_name(base, seed, corpus) if base else "",
                        overrides=own,
                        config=config,
                    )
                )
    _refuse_own_labels(ladder, made)
    _refuse_other_shapes(ladder, made)
    runs = [training.run for training in made]
    if shared := {run for run in runs if runs.count(run) > 1}:
        raise PipelineError(f"{ladder.path}: two students would share the run {shared.pop()!r}; rename one")
    return tuple(made)


def _run_name(student: str, seed: int | None, corpus: Corpus) -> str:
    return "-".join(filter(None, (student, "" if seed is None else f"seed-{seed}", corpus.name)))


def _refuse_own_labels(ladder: Ladder, trainings: Sequence[Training]) -> None:
    """Before a base's training: the one cache of the corpus would not be what the student asks for."""
    for training in trainings:
        made, asked = (
            {name: table for name, table in as_tables(config).items() if name in _OF_A_CORPUS}
            for config in (training.corpus.config, training.config)
        )
        if found := phrases(differences(made, asked)):
            raise PipelineError(
                f"{ladder.path}: [students.{training.student}] or [settings] changes what speech and labels "
                f"are made from ({listed(found, 5)}), and those are made once a corpus; set it in the config "
                f"or in [corpora.{training.corpus.name or 'NAME'}]"
            )


def _refuse_other_shapes(ladder: Ladder, trainings: Sequence[Training]) -> None:
    """Before hours of a base's training: its weights must fit those that begin with them."""
    by_run = {training.run: training.config.student for training in trainings}
    for training in trainings:
        if training.begins_with:
            shapes = (weight_shapes(by_run[run]) for run in (training.begins_with, training.run))
            if found := phrases(differences(*shapes), "{key} {old!r}, here {new!r}"):
                raise PipelineError(
                    f"{ladder.path}: {training.student} cannot begin with the weights of "
                    f"{ladder.begins_with[training.student]}: {listed(found, 5)}; make them equal"
                )


def _refuse_other_seeds(ladder: Ladder, overrides: Sequence[str]) -> None:
    tables = {"students": ladder.students, "corpora": ladder.corpora}
    places = [f"[{kind}.{name}]" for kind, named in tables.items() for name in named if SEED in named[name]]
    places += ["--set" for override in overrides if override.partition("=")[0].strip() == SEED]
    if places:
        raise PipelineError(f"{ladder.path}: {SEED} comes from seeds; {places[0]} sets it too: leave one out")


def _load(ladder: Ladder, place: str, overrides: Sequence[str]) -> ExperimentConfig:
    try:
        return load_config(ladder.config, overrides)
    except PipelineError as error:
        raise PipelineError(f"{ladder.path}: {f'[{place}] ' if place else ''}{error}") from None


def _settings(changes: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"{key}={toml_value(value)}" for key, value in changes.items())
