"""A user's own corpus: a JSONL manifest in our keys or in NeMo's, as raw entries."""

from __future__ import annotations

import json
import math
import os.path
from pathlib import Path
from typing import Any

from pipeline.corpus.raw_utterance import BadItem, RawUtterance
from pipeline.errors import PipelineError

_NEMO_KEYS = {"audio_filepath": "audio", "duration": "seconds"}


def read_corpus_manifest(
    split: str, manifest: Path, data_root: Path
) -> tuple[list[RawUtterance], list[BadItem]]:
    """The entries of a JSONL manifest in file order, and its unusable lines.

    Keys: audio, text; optional id (else the audio file's stem), speaker, seconds, chapter, position
    (else the line's place). Audio lies relative to the manifest's folder or to the data root.
    Raises PipelineError where there is no such file.
    """
    if not manifest.is_file():
        raise PipelineError(f"{manifest}: no such manifest; [data.splits] manifest lies below the data root")
    entries, bad = [], []
    with manifest.open(encoding="utf-8-sig", errors="replace") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                entries.append(_entry(json.loads(line), number, manifest.parent, data_root))
            except (KeyError, OverflowError, TypeError, ValueError) as error:
                what = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
                bad.append(BadItem(split, f"{manifest.name}:{number}", "unreadable line", what))
    return entries, bad


def _entry(line: Any, number: int, folder: Path, data_root: Path) -> RawUtterance:
    if not isinstance(line, dict):
        raise ValueError("not a JSON object")
    fields = {_NEMO_KEYS.get(key, key): value for key, value in line.items() if value is not None}
    if fields.get("offset"):
        raise ValueError("an offset into a longer recording is not supported; cut the recording")
    audio, text = fields["audio"], fields["text"]
    if not isinstance(audio, str) or not isinstance(text, str):
        raise ValueError("audio and text must be strings")
    return RawUtterance(
        id=_name(fields.get("id", Path(audio).stem), "id"),
        audio=_below_root(audio, folder, data_root),
        text=text,
        speaker=_name(fields.get("speaker", ""), "speaker"),
        chapter=_name(fields.get("chapter", ""), "chapter"),
        position=_number(fields.get("position", number - 1), int, "position"),
        seconds=None if "seconds" not in fields else _number(fields["seconds"], float, "seconds"),
    )


def _name(value: Any, key: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"{key} {value!r} is neither a string nor an integer")
    if any(character in str(value) for character in "\t\r\n") or (key == "id" and value == ""):
        raise ValueError(f"{key} {value!r} is empty or holds a tab or a line break")
    return str(value)


def _number(value: Any, kind: type[int] | type[float], key: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or not math.isfinite(value):
        raise ValueError(f"{key} {value!r} is not {'an integer' if kind is int else 'a number'}")
    return kind(value)


def _below_root(audio: str, folder: Path, data_root: Path) -> str:
    """`audio` relative to the data root: beside the manifest if it exists there, else below the root."""
    beside = folder / audio
    path = os.path.normpath(beside if beside.is_file() else data_root / audio)
    relative = os.path.relpath(path, os.path.normpath(data_root))
    if relative.split(os.sep)[0] == os.pardir:
        raise ValueError(f"audio {audio!r} lies outside the data root; link or copy it there")
    return Path(relative).as_posix()
