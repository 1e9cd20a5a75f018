"""The folder of a teacher: found or fetched once, written whole, with a note that says where it came from."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from teacher_cache.common.files import FILES, disk_faults_told, publish_folder, write_json
from teacher_cache.common.sizes import megabytes
from teacher_cache.common.small_files import is_there
from teacher_cache.common.terminal import say
from teacher_cache.config import TeacherConfig
from teacher_cache.errors import CacheError
from teacher_cache.teacher.identity import HASHED_FILES, TEACHER_NOTE, hashed_files


def resolve_teacher(teacher: TeacherConfig, folder: Path) -> Path:
    """The folder that `[teacher] model` names, or `folder` with what a hub name stands for.

    A hub name is resolved to a commit once: safetensors, config and tokenizer files are fetched into
    `folder` with a note of name, commit and licence, and later calls need no network. Raises CacheError
    where there is no such model, no safetensors, or another model or revision in `folder`.
    """
    if not teacher.model:
        raise CacheError("[teacher] names no model; give a Hugging Face folder or a hub name")
    local = Path(teacher.model).expanduser()
    if local.is_dir():
        if not any(local.glob("*.safetensors")):
            raise CacheError(f"{local}: {_no_safetensors()}")
        return local
    if local.is_absolute() or teacher.model.startswith((".", "~")) or teacher.model.count("/") > 1:
        raise CacheError(f"{teacher.model}: no such folder; give a Hugging Face folder or a hub name")
    note = read_note(folder)
    if note is None:
        _fetch(teacher, folder)
    elif not is_fetched(note, teacher):
        held = "a teacher that was trained here"
        if "requested_revision" in note:
            held = f"{note.get('model')} {note['requested_revision']}"
        raise CacheError(
            f"{folder}: holds {held}, not {teacher.model} {teacher.revision}; move it away and run again"
        )
    return folder


def is_fetched(note: Mapping[str, Any], teacher: TeacherConfig) -> bool:
    """Whether a folder's note says that it holds the hub model asked for, by its revision or commit."""
    revisions = (note.get("requested_revision"), note.get("revision"))
    is_of_hub = "requested_revision" in note  # what was trained on from a model names that model too
    return is_of_hub and note.get("model") == teacher.model and teacher.revision in revisions


def read_note(folder: Path) -> dict[str, Any] | None:
    """What `write_teacher` or `resolve_teacher` noted in a teacher's folder; None where there is no note."""
    path = folder / TEACHER_NOTE
    return FILES.json(path, f"move {folder} away and start again") if is_there(path) else None


def write_teacher(folder: Path, model: Any, tokenizer: Any, note: Mapping[str, Any]) -> None:
    """Save model (safetensors), tokenizer and note, and rename the folder into place whole.

    Raises CacheError where the disk refuses, and for weights that are not finite.
    """
    _require_finite(folder, model)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that died; the caller's lock keeps others out
    with disk_faults_told(folder, kinds=Exception):  # safetensors and tokenizers raise their own
        partial.mkdir(parents=True)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    _publish(partial, folder, note)


def _require_finite(folder: Path, model: Any) -> None:
    for name, weights in model.state_dict().items():
        if weights.is_floating_point() and not bool(weights.isfinite().all()):
            raise CacheError(
                f"{folder}: not saved: {name} holds NaN or infinity; lower [teacher_training] learning_rate"
            )


def _publish(partial: Path, folder: Path, note: Mapping[str, Any]) -> None:
    write_json(partial / TEACHER_NOTE, {**note, "files_sha256": hashed_files(partial)})
    try:
        publish_folder(partial, folder)
    except OSError as error:
        raise CacheError(
            f"{folder}: cannot be put in place ({error.strerror}); move what is there away"
        ) from None


def _fetch(teacher: TeacherConfig, folder: Path) -> None:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of its HTTP client
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if not sys.stderr.isatty():
        disable_progress_bars()
    partial = folder.with_name(
        f"{folder.name}.partial"
    )  # kept when interrupted: the fetch goes on from there
    try:
        model = HfApi().model_info(teacher.model, revision=teacher.revision or None, files_metadata=True)
        files = [entry for entry in model.siblings or [] if _is_wanted(entry.rfilename)]
        if not any(entry.rfilename.endswith(".safetensors") for entry in files):
            raise CacheError(f"{teacher.model}: {_no_safetensors()}")
        size = megabytes(sum(entry.size or 0 for entry in files))
        say(f"fetching {teacher.model} at {model.sha}: {size}")
        snapshot_download(
            teacher.model,
            revision=model.sha,
            local_dir=partial,
            allow_patterns=[entry.rfilename for entry in files],
        )
    except (OSError, ValueError, HTTPError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CacheError(
            f"{teacher.model}: cannot be fetched ({reason}); check name and network, or give a folder"
        ) from error
    shutil.rmtree(partial / ".cache", ignore_errors=True)  # the hub client's own bookkeeping
    note = {
        "name": teacher.name or teacher.model,
        "model": teacher.model,
        "requested_revision": teacher.revision,
        "revision": model.sha,
        "licence": str(getattr(model.card_data, "license", "") or ""),
    }
    _publish(partial, folder, note)


def _is_wanted(name: str) -> bool:
    return "/" not in name and any(Path(name).match(pattern) for pattern in HASHED_FILES)


def _no_safetensors() -> str:
    return "no *.safetensors weights, and pickled ones are never loaded; save it again with save_pretrained"
