"""Evaluated transcripts as files, in the trn format of NIST sclite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import FILES
from teacher_cache.common.small_files import is_there


@dataclass(frozen=True, slots=True)
class Transcripts:
    """An evaluated split: what was said and what was recognised, by utterance id."""

    references: Mapping[str, str]
    hypotheses: Mapping[str, str]


def read_transcripts(folder: Path, split: str) -> Transcripts:
    """Of `<folder>/<split>.{ref,hyp}.trn`. Raises PipelineError where they cannot be read."""
    return Transcripts(*(read_trn(folder / f"{split}.{side}.trn") for side in ("ref", "hyp")))


def read_trn(path: Path) -> dict[str, str]:
    """Text by utterance id; a line is `text (id)`. PipelineError where it cannot be read."""
    if not is_there(path):
        raise PipelineError(f"{path}: no such file; evaluate this run on this split first")
    texts = {}
    for _, line in FILES.lines(path, "evaluate this run on this split again"):
        text, _, utterance_id = line.rpartition("(")
        texts[utterance_id.removesuffix(")")] = text.strip()
    return texts
