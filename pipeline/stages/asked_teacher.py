"""Which teacher a config asks for, and whether a folder or a cache is that teacher's: never by its name.

What a config asks for is a local folder (its files), a hub model at a revision, or a training (its recipe).
"""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.config import ExperimentConfig
from pipeline.corpus.prepared import sound_preparation
from pipeline.errors import PipelineError
from pipeline.normaliser import UnspeakableText, normalise, normaliser_identity
from pipeline.paths import Roots, own_teacher_folder
from student.data.manifest import read_manifest
from teacher_cache.common.differences import differences, listed, phrases
from teacher_cache.common.files import canonical_json, sha256_of
from teacher_cache.store import Manifest
from teacher_cache.store.manifest import TeacherIdentity
from teacher_cache.teacher.folder import is_fetched, read_note, resolve_teacher
from teacher_cache.teacher.identity import identify_teacher
from teacher_cache.teacher_training.request import (
    TeacherTrainingRequest,
    recipe_differences,
    training_recipe,
)

NAMED_FILES = 3
_COMMIT = re.compile("[0-9a-f]{40}")


def asked_teacher_folder(config: ExperimentConfig, roots: Roots) -> Path:
    """The local folder of the teacher that the config asks for, fetched once where it is a hub model.

    Raises PipelineError where the teacher is to be trained here and is not yet, or was trained otherwise. Of
    what a recipe names, text files alone may be gone: what cannot be compared is passed over.
    """
    folder = own_teacher_folder(config, roots)
    if config.teacher_training is None:
        return resolve_teacher(config.teacher, folder)
    if not (folder / "config.json").is_file():
        raise PipelineError(f"{folder}: no teacher yet; train it with `bert2ctc teacher train`")
    fault = _training_fault(read_note(folder), config, roots)
    if fault:
        raise PipelineError(
            f"{folder}: not the teacher that config {config.name!r} asks for ({fault}); choose another "
            "teacher.name, or move the folder away, and run `bert2ctc teacher train`"
        )
    return folder


def asked_sha256(config: ExperimentConfig) -> str:
    """A digest of what the config says of its teacher; equal words ask for one teacher on one machine."""
    asked: dict[str, Any] = {"model": config.teacher.model, "revision": config.teacher.revision}
    if config.teacher_training is not None:
        asked["training"] = asdict(config.teacher_training)
        del asked["training"]["save_every_steps"]  # decides nothing
    elif not config.teacher.model:
        asked["name"] = config.teacher.name
    return sha256_of(canonical_json(asked))


def training_request(config: ExperimentConfig, roots: Roots, device: str = "cpu") -> TeacherTrainingRequest:
    """What `bert2ctc teacher train` is asked for by a config with a [teacher_training] table.

    Every split's texts are read, test splits too: none of them is trained on.
    """
    training = config.teacher_training
    assert training is not None, "a config without [teacher_training] has nothing to train"
    is_file = training.vocabulary not in ("words", "wordpiece")
    prepared = sound_preparation(config, roots)
    splits = [read_manifest(prepared / f"{name}.jsonl") for name in config.data.splits]
    return TeacherTrainingRequest(
        config=training,
        teacher=config.teacher,
        text_paths=tuple(roots.data / name for name in training.text),
        vocabulary_path=roots.data / training.vocabulary if is_file else None,
        transcripts=[utterance.text for split in splits for utterance in split],
        normalise=normalise,
        unspeakable=UnspeakableText,
        normaliser=normaliser_identity(),
        output=own_teacher_folder(config, roots),
        scratch=roots.scratch / "teachers",
        device=device,
    )


def refuse_another_teacher(config: ExperimentConfig, roots: Roots, manifest: Manifest) -> None:
    """PipelineError where a cache was labelled by another teacher than the config asks for.

    The name of a config may still stand for a cache that an earlier [teacher] labelled. Neither the teacher's
    files nor the network are needed; where the files are on the disk, they are compared.
    """
    held = manifest.teacher
    fault = _labeller_fault(config, roots, held)
    if fault:
        wanted = config.teacher.name or config.teacher.model
        raise PipelineError(
            f"cache {manifest.fingerprint} of config {config.name!r} was labelled by teacher {held.name!r}; "
            f"the config names {wanted!r} ({fault}); run `bert2ctc cache build {shlex.quote(config.name)}` "
            f"with it, or name this cache with --cache {manifest.fingerprint}"
        )


def _labeller_fault(config: ExperimentConfig, roots: Roots, held: TeacherIdentity) -> str:
    """What of a cache's teacher is not what the config asks for, in words; "" where nothing is."""
    folder, is_asked = _folder_here(config, roots)
    if folder is not None:
        others = list(differences(identify_teacher(folder).files_sha256, held.files_sha256))
        if is_asked:
            return f"{folder} has other {listed(others, NAMED_FILES, ', ')}" if others else ""
        if not others:
            return f"{folder}, which labelled it, is not what the config asks for"
    if held.request_sha256 == asked_sha256(config):
        return ""
    if config.teacher_training is not None and held.training:
        return _recipe_fault(held.training, config, roots)
    if config.teacher_training is None and _is_hub_name(config.teacher.model):
        return _hub_fault(config, held)
    if held.request_sha256:
        return "another one was asked for when it was built"
    return _name_fault(config, held)  # of version 0.1, which kept no more


def _folder_here(config: ExperimentConfig, roots: Roots) -> tuple[Path | None, bool]:
    """A folder on the disk that may be the asked teacher's, None where there is none; and whether it is."""
    local = Path(config.teacher.model).expanduser()
    if config.teacher_training is None and config.teacher.model and local.is_dir():
        return local, True
    folder = own_teacher_folder(config, roots)
    if not (folder / "config.json").is_file():
        return None, False
    note = read_note(folder)
    if config.teacher_training is not None:
        return folder, not _training_fault(note, config, roots)
    if not config.teacher.model:
        return folder, True
    return folder, note is not None and is_fetched(note, config.teacher)


def _training_fault(note: dict[str, Any] | None, config: ExperimentConfig, roots: Roots) -> str:
    recipe = (note or {}).get("recipe")
    return (
        _recipe_fault(recipe, config, roots)
        if isinstance(recipe, dict) and recipe
        else "it was not trained here"
    )


def _recipe_fault(held: dict[str, Any], config: ExperimentConfig, roots: Roots) -> str:
    wanted = training_recipe(training_request(config, roots), may_lack_files=True)
    return listed(phrases(recipe_differences(held, wanted)))


def _is_hub_name(model: str) -> bool:
    return bool(model) and not model.startswith((".", "~", "/")) and model.count("/") <= 1


def _hub_fault(config: ExperimentConfig, held: TeacherIdentity) -> str:
    wanted = config.teacher
    if held.model != wanted.model:
        return f"model {held.model!r}, not {wanted.model!r}" if held.model else "a local folder"
    if held.training or held.normaliser:  # only what was trained here says on text of which normaliser
        return f"trained on from {held.model!r}"
    is_known = bool(held.request_sha256) or _COMMIT.fullmatch(wanted.revision) is not None
    if wanted.revision and is_known and wanted.revision not in (held.revision, held.requested_revision):
        return f"revision {held.requested_revision or held.revision!r}, not {wanted.revision!r}"
    return ""


def _name_fault(config: ExperimentConfig, held: TeacherIdentity) -> str:
    """A name answers a config that asks for nothing but a name."""
    if config.teacher_training is not None or (config.teacher.model and config.teacher.model != held.model):
        return "its files are not here to be compared, and this cache keeps a name of its teacher and no more"
    return "" if config.teacher.name in ("", held.name) else "another name, and nothing else is known of it"
