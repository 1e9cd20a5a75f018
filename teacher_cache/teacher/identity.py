"""Who the teacher is: the hashes of its files for the fingerprint, its name and licence for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from teacher_cache.common.differences import differences, listed
from teacher_cache.common.files import FILES, file_sha256
from teacher_cache.common.small_files import is_there
from teacher_cache.errors import CacheError
from teacher_cache.settings import shown_value
from teacher_cache.store.manifest import TeacherIdentity

NAMED_FILES = 3
_RESTORE = "restore the teacher's folder"
TEACHER_NOTE = "bert2ctc_teacher.json"
# What can decide a label. Whatever else lies in the folder (README, optimiser, our own note) may change.
HASHED_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
)
# Their position table begins after the padding id (transformers, create_position_ids_from_input_ids).
OFFSET_POSITION_MODELS = ("roberta", "xlm-roberta", "camembert", "roberta-prelayernorm")


def identify_teacher(folder: Path) -> TeacherIdentity:
    """Hash a Hugging Face folder and read who its model is; CacheError without config or safetensors.

    `bert2ctc_teacher.json`, where present, gives name, model, revision, licence, normaliser and training;
    CacheError where it names the files and the folder has others.
    """
    config = _read_json(folder / "config.json")
    require_readable(folder)
    note = _read_json(folder / TEACHER_NOTE) if is_there(folder / TEACHER_NOTE) else {}
    if not any(folder.glob("*.safetensors")):
        raise CacheError(
            f"{folder}: no *.safetensors weights; save the model again with "
            "`model.save_pretrained(folder)`, or name another teacher under [teacher]"
        )
    vocab_size, max_tokens = _sizes_in(folder, config)
    digests = hashed_files(folder)
    others = list(differences(_table(note, "files_sha256", folder) or digests, digests))
    if others:
        raise CacheError(
            f"{folder}: {listed(others, NAMED_FILES, ', ')} changed since {TEACHER_NOTE} was written; "
            "restore the teacher's files, or delete the note and give the folder as [teacher] model"
        )
    return TeacherIdentity(
        name=str(note.get("name") or folder.name),
        model=str(note.get("model") or ""),
        revision=str(note.get("revision") or ""),
        licence=str(note.get("licence") or ""),
        files_sha256=digests,
        vocab_size=vocab_size,
        max_tokens=max_tokens,
        normaliser=_table(note, "normaliser", folder),
        requested_revision=str(note.get("requested_revision") or ""),
        training=_table(note, "recipe", folder),
    )


def hashed_files(folder: Path) -> dict[str, str]:
    """Name -> hexadecimal sha256 of every file of a folder that can decide a label."""
    files = sorted({path for pattern in HASHED_FILES for path in folder.glob(pattern)})
    return {path.name: _sha256(path) for path in files}


def require_readable(folder: Path) -> None:
    """CacheError where a folder holds a pipe, or what cannot be read: transformers would wait for it."""
    FILES.files_only(folder, _RESTORE)


def _sha256(path: Path) -> str:
    with FILES.faults_told(path, _RESTORE):
        return file_sha256(path)


def _table(note: dict[str, Any], key: str, folder: Path) -> dict[str, Any]:
    value = note.get(key) or {}
    if not isinstance(value, dict):
        raise CacheError(
            f"{folder / TEACHER_NOTE}: {key} {shown_value(value)} is no table; restore the teacher's folder"
        )
    return value


def model_sizes(folder: Path) -> tuple[int, int]:
    """Pieces of the vocabulary, and tokens of the longest passage with its specials, by config.json."""
    return _sizes_in(folder, _read_json(folder / "config.json"))


def model_family(folder: Path) -> str:
    """What transformers calls the model's kind, "bert" for example."""
    return str(_read_json(folder / "config.json").get("model_type", ""))


def _sizes_in(folder: Path, config: dict[str, Any]) -> tuple[int, int]:
    try:
        max_tokens = int(config["max_position_embeddings"])
        if config.get("model_type") in OFFSET_POSITION_MODELS:
            max_tokens -= int(config["pad_token_id"]) + 1
        return int(config["vocab_size"]), max_tokens
    except (KeyError, TypeError, ValueError) as error:
        raise CacheError(f"{folder}/config.json lacks {error}; name a masked language model") from None


def _read_json(path: Path) -> dict[str, Any]:
    if not is_there(path):
        raise CacheError(
            f"{path}: no such file; train a teacher with `bert2ctc teacher train`, or name a folder "
            "under [teacher] model"
        )
    return FILES.json(path, _RESTORE)
