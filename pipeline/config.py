"""TOML to the frozen dataclasses that the stages own; an unknown key is an error naming the nearest one."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.demo.plan import DemoCorpusConfig
from pipeline.errors import PipelineError
from student.config import UNIT_MODEL_TYPES, StudentConfig
from teacher_cache.common.names import NAME_RULE, is_name
from teacher_cache.config import BuildConfig, CacheConfig, TeacherConfig, TeacherTrainingConfig
from teacher_cache.settings import check_settings, required, setting

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
        if bool(self.manifest) == bool(self.folders or self.ids):
            raise ValueError("a split is either a manifest, or folders and/or a list of ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """The corpus, what counts as a valid utterance, and the CTC units."""

    corpus: str = setting("", "a folder below the data root")
    splits: Mapping[str, SplitConfig] = required("by name; `train` must be among them, `dev` is measured")
    download: tuple[str, ...] = setting((), "LibriSpeech subsets that `bert2ctc data download` fetches")
    sample_rate_hz: int = setting(16_000, "what every file must have", unit="Hz", low=1000, high=192_000)
    min_seconds: float = setting(0.2, "a shorter utterance is reported", unit="s", low=0)
    max_seconds: float = setting(40.0, "a longer utterance is reported", unit="s", above=0)
    max_characters_per_second: float = setting(
        40.0, "a faster utterance is reported: its text is probably another's", above=0
    )
    unit_vocabulary_size: int = setting(512, "of SentencePiece", unit="pieces", low=2, high=1_000_000)
    unit_model_type: str = setting("unigram", "of SentencePiece", choices=UNIT_MODEL_TYPES)

    def __post_init__(self) -> None:
        check_settings(self)
        if "train" not in self.splits:
            raise ValueError(f"splits {sorted(self.splits)} hold no train split")
        for name in self.splits:
            if not is_name(name):
                raise ValueError(f"split name {name!r} must be {NAME_RULE}")
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
    student: StudentConfig


_STUDENT_TABLES = {entry.name: entry for entry in dataclasses.fields(StudentConfig)}
# Table -> the dataclass that owns it
TABLES: Mapping[str, Any] = {
    "demo_corpus": DemoCorpusConfig,
    "data": DataConfig,
    "teacher": TeacherConfig,
    "teacher_training": TeacherTrainingConfig,
    "cache": CacheConfig,
    "build": BuildConfig,
    **{name: type(getattr(StudentConfig(), name)) for name in _STUDENT_TABLES},
}


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
    except (TypeError, ValueError) as error:
        raise PipelineError(f"{path}: {error}") from None


def as_tables(config: ExperimentConfig) -> dict[str, Any]:
    """The resolved config as plain tables, in the file's own section names; JSON-ready."""
    tables = {name: getattr(config, name) for name in TABLES if hasattr(config, name)}
    tables |= {name: getattr(config.student, name) for name in _STUDENT_TABLES}
    plain = {name: dataclasses.asdict(table) for name, table in tables.items() if table is not None}
    return typing.cast(dict[str, Any], _jsonable(plain))


def _find(reference: str) -> Path:
    shipped = CONFIG_FOLDER / f"{reference}.toml"
    if shipped.is_file():
        return shipped
    path = Path(reference)
    if path.suffix == ".toml" and path.is_file():
        return path.resolve()
    known = sorted(entry.stem for entry in CONFIG_FOLDER.glob("*.toml"))
    raise PipelineError(f"no config {reference!r}: neither a TOML file nor one of {', '.join(known)}")


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except tomllib.TOMLDecodeError as error:
        raise PipelineError(f"{path}: not valid TOML: {error}") from None


def _read_with_base(path: Path) -> tuple[dict[str, Any], Path]:
    """The tables, and the folder of the file that the splits come from; they are never a mixture of two."""
    tables = _read(path)
    base = tables.pop("base", None)
    if base is None:
        return tables, path.parent
    base_path = path.parent / base if str(base).endswith(".toml") else _find(base)
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
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    tables.setdefault(section, {})[name] = value


def _from_tables(reference: str, path: Path, tables: dict[str, Any], folder: Path) -> ExperimentConfig:
    refuse_unknown(tables, list(TABLES), "table")
    if "data" not in tables or "teacher" not in tables:
        raise PipelineError(f"{path}: the tables [data] and [teacher] are missing; give them, or a base")
    student = {
        name: _build(_type_of(StudentConfig, name), tables.get(name, {}), name) for name in _STUDENT_TABLES
    }
    return ExperimentConfig(
        name=path.stem,
        reference=reference,
        folder=folder,
        demo_corpus=_optional(DemoCorpusConfig, tables, "demo_corpus"),
        data=_build(DataConfig, tables["data"], "data"),
        teacher=_build(TeacherConfig, tables["teacher"], "teacher"),
        teacher_training=_optional(TeacherTrainingConfig, tables, "teacher_training"),
        cache=_build(CacheConfig, tables.get("cache", {}), "cache"),
        build=_build(BuildConfig, tables.get("build", {}), "build"),
        student=StudentConfig(**student),
    )


def _optional(table_type: Any, tables: dict[str, Any], name: str) -> Any:
    return _build(table_type, tables[name], name) if name in tables else None


def _build(table_type: Any, table: Any, where: str) -> Any:
    """One dataclass from one table, every value checked against its annotation."""
    if not isinstance(table, dict):
        raise PipelineError(f"[{where}] is not a table: {table!r}")
    refuse_unknown(table, [entry.name for entry in dataclasses.fields(table_type)], "key", where)
    values = {
        key: _convert(_type_of(table_type, key), value, f"{where}.{key}") for key, value in table.items()
    }
    try:
        return table_type(**values)
    except (TypeError, ValueError) as error:
        raise PipelineError(f"[{where}] {error}") from None


def _convert(annotation: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if dataclasses.is_dataclass(annotation):
        return _build(annotation, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(arguments[0], item, where) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        return {key: _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is types.UnionType:
        value = float(value) if type(value) is int and float in arguments else value
        if type(value) in arguments:
            return value
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(annotation, type) and type(value) is annotation:
        return value
    expected = (
        annotation
        if isinstance(annotation, types.GenericAlias | types.UnionType)
        else getattr(annotation, "__name__", annotation)
    )
    raise PipelineError(f"{where} = {value!r} is not of type {expected}")


def _type_of(table_type: Any, name: str) -> Any:
    return typing.get_type_hints(table_type)[name]


def refuse_unknown(table: Mapping[str, Any], known: Sequence[str], kind: str, where: str = "") -> None:
    """Raise PipelineError for the first key that is not known, with the nearest one that is."""
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise PipelineError(f"unknown {kind} {f'{where}.{key}' if where else key!r}{hint}")


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return value
