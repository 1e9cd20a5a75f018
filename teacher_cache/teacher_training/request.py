"""What a teacher's training is asked for and gives back, and the recipe that tells two requests apart."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from teacher_cache.common.differences import differences
from teacher_cache.common.files import FILES, canonical_json, file_sha256
from teacher_cache.common.small_files import parse_object
from teacher_cache.common.typed import typed
from teacher_cache.config import TeacherConfig, TeacherTrainingConfig
from teacher_cache.errors import CacheError
from teacher_cache.teacher.identity import TEACHER_NOTE, identify_teacher
from teacher_cache.teacher_training.text import SentenceCounts

HELD_OUT_SENTENCES = 1024  # that figures are taken on


@dataclass(frozen=True, slots=True)
class HeldOutFigures:
    """How well masked tokens of sentences that training never saw are filled.

    masked_accuracy : 0..1     perplexity : exp of the mean negative log probability
    """

    masked_accuracy: float
    perplexity: float
    masked_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherTrainingRequest:
    """What to train, on what, and where to.

    text_paths : the files of config.text     vocabulary_path : where config.vocabulary is a path
    transcripts : normalised; they will be labelled, so no sentence that overlaps one is trained on
    normalise, unspeakable, normaliser : the transcripts' normaliser, what it raises, its identity
    output : the teacher's final folder     scratch : tokens and checkpoints; removed at the end
    device : "cpu", "cuda" or "mps"
    """

    config: TeacherTrainingConfig
    teacher: TeacherConfig
    text_paths: tuple[Path, ...]
    vocabulary_path: Path | None = None
    transcripts: Sequence[str]
    normalise: Callable[[str], str]
    unspeakable: type[Exception]
    normaliser: Mapping[str, Any]
    output: Path
    scratch: Path
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherTrainingResult:
    """A finished teacher; every figure is of the run that trained it, also where its folder is reused.

    sentences : what became of the text; of those kept, `num_trained` were drawn for training
    on_transcripts : the same figures on transcripts, which it never trained on either
    resumed_step : 0 where the training ran in one go
    """

    folder: Path
    reused: bool
    before: HeldOutFigures
    after: HeldOutFigures
    on_transcripts: HeldOutFigures | None
    sentences: SentenceCounts
    num_trained: int
    seconds: float
    tokens_per_second: float
    precision: str
    resumed_step: int


def training_recipe(request: TeacherTrainingRequest, *, may_lack_files: bool = False) -> dict[str, Any]:
    """Everything that decides the weights, JSON-ready: two equal recipes train the same teacher.

    may_lack_files : None stands for a text or vocabulary file that is not there, else a CacheError
    """

    def digest_of(path: Path) -> str | None:
        if path.is_file():
            with FILES.faults_told(path, "name another under [teacher_training]"):
                return file_sha256(path)
        if may_lack_files:
            return None
        raise CacheError(f"{path}: no such file; put it there, or name another under [teacher_training]")

    settings = asdict(request.config)
    del settings["save_every_steps"]  # decides nothing
    base: dict[str, Any] = {"model": request.teacher.model, "revision": request.teacher.revision}
    if request.teacher.model and Path(request.teacher.model).expanduser().is_dir():
        base["files_sha256"] = identify_teacher(Path(request.teacher.model).expanduser()).files_sha256
    transcripts = "\n".join(sorted(set(request.transcripts)))
    recipe = {
        "config": settings,
        "base": base,
        "text_sha256": [digest_of(path) for path in request.text_paths],
        "vocabulary_sha256": digest_of(request.vocabulary_path) if request.vocabulary_path else "",
        "normaliser": dict(request.normaliser),
        "transcripts_sha256": hashlib.sha256(transcripts.encode()).hexdigest(),
    }
    return parse_object(canonical_json(recipe))


def recipe_differences(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What two recipes differ in, as `differences` says it.

    wanted : of `training_recipe`; what it could not say of files that are gone is no difference
    """
    held, wanted = dict(held), dict(wanted)
    texts, known = held.get("text_sha256"), wanted["text_sha256"]
    if isinstance(texts, list) and len(texts) == len(known):
        held["text_sha256"] = [text if here else None for text, here in zip(texts, known, strict=True)]
    if wanted["vocabulary_sha256"] is None and held.get("vocabulary_sha256"):
        held["vocabulary_sha256"] = None
    if isinstance(held.get("base"), dict) and "files_sha256" not in wanted["base"]:
        held["base"] = {key: value for key, value in held["base"].items() if key != "files_sha256"}
    return differences(held, wanted)


def result_from_note(folder: Path, note: Mapping[str, Any], *, reused: bool) -> TeacherTrainingResult:
    """The result that a teacher's note tells of. Raises CacheError where it tells of none."""
    told = {field.name for field in fields(TeacherTrainingResult)} & note.keys()
    entry = {**{name: note[name] for name in told}, "folder": folder, "reused": reused}
    with FILES.faults_told(folder / TEACHER_NOTE, f"move {folder} away and start again"):
        return typed(TeacherTrainingResult, entry)
