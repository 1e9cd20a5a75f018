"""The manifest of a split: one JSON line per utterance, normalised text, audio paths below the data root."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from student.errors import StudentError
from student.files import FILES, write_text
from teacher_cache.common.small_files import is_there, parse_object
from teacher_cache.common.typed import typed

_ADVICE = "rerun `bert2ctc data prepare`"


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance of a manifest.

    audio : path relative to the data root     text : normalised transcript
    seconds : duration     position : index within the chapter, for the teacher's context
    """

    id: str
    audio: str
    text: str
    seconds: float
    speaker: str = ""
    chapter: str = ""
    position: int = 0


def read_manifest(path: Path) -> list[Utterance]:
    """The utterances of a manifest that `bert2ctc data prepare` wrote, in file order.

    Raises StudentError where the file is absent or a line is not an utterance.
    """
    if not is_there(path):
        raise StudentError(f"{path}: no manifest; make it with `bert2ctc data prepare`")
    known = {field.name for field in fields(Utterance)}
    utterances = []
    for number, line in FILES.lines(path, _ADVICE):
        with FILES.faults_told(f"{path}:{number}", f"not an utterance; {_ADVICE}"):
            entry = parse_object(line)
            utterances.append(typed(Utterance, {name: entry[name] for name in known & entry.keys()}))
    return utterances


def write_manifest(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest whole or not at all; StudentError where the disk refuses."""
    write_text(
        path, "".join(json.dumps(asdict(utterance), ensure_ascii=False) + "\n" for utterance in utterances)
    )
