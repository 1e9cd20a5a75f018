"""TOML to the frozen dataclasses that the stages own; an unknown key is an error naming the nearest one."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.demo.plan import DemoCorpusConfig
from pipeline.errors import PipelineError
from pipeline.files import FILES
from pipeline.language_model.settings import LanguageModelConfig
from student.config import UNIT_MODEL_TYPES, StudentConfig
from teacher_cache.common.differences import listed
from teacher_cache.common.small_files import parse_toml
from teacher_cache.common.typed import Fault, refuse_unknown, typed
from teacher_cache.config import BuildConfig, CacheConfig, TeacherConfig, TeacherTrainingConfig
from teacher_cache.settings import (
    NAME_RULE,
    check_settings,
    is_name,
    required,
    setting,
    shown_value,
)

OPTIONAL_SPLIT = "dev"  # it is measured where a config has one, and labelled then
CONFIG_FOLDER = Path(__file__).parent / "configs"


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """Where the utterances of one split come from: exactly one kind of source."""

    folders: tuple[str, ...] = setting((), "folders below the corpus")
    ids: str = setting(
        "", "a list of utterance ids, a line each, beside the file that names it (a base's own beside the "
        "base); searched in `folders`, or in every folder of the corpus where none is given",
    )  # fmt: skip
    manifest: str = setting("", "a JSONL manifest below the data root")

    def __post_init__(self) -> None:
        check_settings(self)
        refuse_paths_that_leave(folders=self.folders, manifest=(self.manifest,))
        if bool(self.manifest) == bool(self.folders or self.ids):
            raise ValueError("a split is either a manifest, or folders and/or a list of ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """The corpus, what counts as a valid utterance, and the CTC units."""

    corpus: str = setting("", "a folder below the data root")
    splits: Mapping[str, SplitConfig] = required("by name; `train` must be among them, `dev` is measured")
    download: tuple[str, ...] = setting((), "LibriSpeech subsets that `bert2ctc data download` fetches")
    sample_rate_hz: int = setting(16_000, "what every file must have", unit="Hz", low=1000, high=192_000)
    min_seconds: float = setting(0.2, "a shorter utterance is reported", unit="s", low=0, high=1e6)
    max_seconds: float = setting(40.0, "a longer utterance is reported", unit="s", above=0, high=1e6)
    max_characters_per_second: float = setting(
        40.0, "a faster utterance is reported: its text is probably another's", above=0, high=1e6
    )
    unit_vocabulary_size: int = setting(512, "of SentencePiece", unit="pieces", low=2, high=1_000_000)
    unit_model_type: str = setting("unigram", "of SentencePiece", choices=UNIT_MODEL_TYPES)

    def __post_init__(self) -> None:
        check_settings(self)
        refuse_paths_that_leave(corpus=(self.corpus,))
        for name in self.splits:
            if not is_name(name):
                raise ValueError(f"split name {shown_value(name)} is no name: {NAME_RULE}")
        if "train" not in self.splits:
            raise ValueError(f"splits {listed(sorted(self.splits), 12, ', ')} hold no train split")
        if self.min_seconds >= self.max_seconds:
            raise ValueError(f"min_seconds {self.min_seconds} must lie below max_seconds {self.max_seconds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentConfig:
    """One config file: every table, resolved."""

    name: str
    reference: str  # by which a command names it: a shipped config's name, or a path
    folder: Path  # of the file that names the splits, where their id lists are looked up
    demo_corpus: DemoCorpusConfig | None  # only of a corpus that is made on the spot
    data: DataConfig
    teacher: TeacherConfig
    teacher_training: TeacherTrainingConfig | None
    cache: CacheConfig
    build: BuildConfig
    language_model: LanguageModelConfig
    student: StudentConfig

    def __post_init__(self) -> None:
        absent = [name for name in self.build.splits if name not in (*self.data.splits, OPTIONAL_SPLIT)]
        if absent:
            raise ValueError(
                f"[build] splits names {shown_value(absent[0])}, and [data.splits] holds "
                f"{listed(list(self.data.splits), 12, ', ')}; name splits that are there"
            )

    @property
    def labelled_splits(self) -> tuple[str, ...]:
        """What a cache of this config labels: [build] splits, dev where there is one."""
        return tuple(name for name in self.build.splits if name in self.data.splits)


_STUDENT_TABLES = {entry.name: entry for entry in dataclasses.fields(StudentConfig)}
# Table -> the dataclass that owns it
TABLES: Mapping[str, Any] = {
    "demo_corpus": DemoCorpusConfig,
    "data": DataConfig,
    "teacher": TeacherConfig,
    "teacher_training": TeacherTrainingConfig,
    "cache": CacheConfig,
    "build": BuildConfig,
    "language_model": LanguageModelConfig,
    **{name: type(getattr(StudentConfig(), name)) for name in _STUDENT_TABLES},
}
OF_A_CACHE = ("teacher", "teacher_training", "cache", "build")  # tables that only a cache is made from


def load_config(reference: str, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """The experiment of a shipped config's name or of a TOML path, with `section.key=value` overrides.

    Raises PipelineError for an unknown config, table, key or value.
    """
    path = _find(reference)
    tables, folder = _read_with_base(path)
    for override in overrides:
        _apply_override(tables, override)
    try:
        return _from_tables(reference, path, tables, folder)
    except ValueError as error:
        raise PipelineError(f"{path}: {error}") from None


def as_tables(config: ExperimentConfig) -> dict[str, Any]:
    """The resolved config as plain tables, in the file's own section names; JSON-ready."""
    tables = {name: getattr(config, name) for name in TABLES if hasattr(config, name)}
    tables |= {name: getattr(config.student, name) for name in _STUDENT_TABLES}
    plain = {name: dataclasses.asdict(table) for name, table in tables.items() if table is not None}
    return typing.cast(dict[str, Any], _jsonable(plain))


def refuse_paths_that_leave(**paths: Sequence[str]) -> None:
    """Raise ValueError for the first path of a setting that does not stay below its folder."""
    for key, named in paths.items():
        for path in named:
            if Path(path).is_absolute() or ".." in Path(path).parts:
                raise ValueError(
                    f"{key} {shown_value(path)} must be a path below, not absolute and without '..'"
                )


def _find(reference: str) -> Path:
    shipped = CONFIG_FOLDER / f"{reference}.toml"
    if os.path.isfile(shipped):  # False for what can be no name, too
        return shipped
    path = Path(reference)
    if path.suffix == ".toml" and os.path.isfile(path):
        return path.resolve()
    known = sorted(entry.stem for entry in CONFIG_FOLDER.glob("*.toml"))
    raise PipelineError(
        f"no config {shown_value(reference)}: neither a TOML file nor one of {', '.join(known)}"
    )


def _read(path: Path) -> dict[str, Any]:
    return FILES.toml(path, "mend it, or name another config")


def _read_with_base(path: Path) -> tuple[dict[str, Any], Path]:
    """The tables, and the folder of the file that the splits come from; they are never a mixture of two."""
    tables = _read(path)
    base = tables.pop("base", None)
    if base is None:
        return tables, path.parent
    if not isinstance(base, str):
        raise PipelineError(f"{path}: base {shown_value(base)} is neither a config's name nor a TOML file")
    base_path = path.parent / base if base.endswith(".toml") else _find(base)
    base_tables = _read(base_path)
    if "base" in base_tables:
        raise PipelineError(f"{path}: base {base!r} has a base of its own; one level is the limit")
    own_data = tables.get("data", {})
    names_splits = isinstance(own_data, dict) and "splits" in own_data
    return _merge(base_tables, tables), path.parent if names_splits else base_path.parent


def _merge(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        # A split is replaced whole: half of the base's sources would be a silent mixture.
        is_table = isinstance(value, dict) and isinstance(base.get(key), dict) and key != "splits"
        merged[key] = _merge(base[key], value) if is_table else value
    return merged


def _apply_override(tables: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not separator or not dot or "." in name:
        raise PipelineError(f"--set {override!r}: write section.key=value")
    try:
        value = parse_toml(f"value = {text.strip()}")["value"]
    except Fault:
        value = text.strip()
    table = tables.setdefault(section, {})
    if not isinstance(table, dict):
        raise PipelineError(f"--set {override!r}: [{section}] is not a table: {shown_value(table)}")
    table[name] = value


def _from_tables(reference: str, path: Path, tables: dict[str, Any], folder: Path) -> ExperimentConfig:
    refuse_unknown(tables, list(TABLES), "table")
    if not is_name(path.stem):
        raise ValueError(
            f"{shown_value(path.stem)} is no name, and a config's file must have one: {NAME_RULE}"
        )
    if "data" not in tables or "teacher" not in tables:
        raise PipelineError(f"{path}: the tables [data] and [teacher] are missing; give them, or a base")
    student = {name: typed(TABLES[name], tables.get(name, {}), name) for name in _STUDENT_TABLES}
    return ExperimentConfig(
        name=path.stem,
        reference=reference,
        folder=folder,
        demo_corpus=_optional(DemoCorpusConfig, tables, "demo_corpus"),
        data=typed(DataConfig, tables["data"], "data"),
        teacher=typed(TeacherConfig, tables["teacher"], "teacher"),
        teacher_training=_optional(TeacherTrainingConfig, tables, "teacher_training"),
        cache=typed(CacheConfig, tables.get("cache", {}), "cache"),
        build=typed(BuildConfig, tables.get("build", {}), "build"),
        language_model=typed(LanguageModelConfig, tables.get("language_model", {}), "language_model"),
        student=StudentConfig(**student),
    )


def _optional(table_type: Any, tables: dict[str, Any], name: str) -> Any:
    return typed(table_type, tables[name], name) if name in tables else None


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return value
