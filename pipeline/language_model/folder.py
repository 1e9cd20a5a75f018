"""The folder of a language model: its files, and a note that names text, units and recipe."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError
from pipeline.files import FILES
from pipeline.language_model.kinds import KINDS, UNITS, WORDS
from student.data.units import Units
from teacher_cache.common.differences import differences, listed, phrases
from teacher_cache.common.files import canonical_json, disk_faults_told, publish_folder, write_json
from teacher_cache.common.small_files import is_there, open_regular

if TYPE_CHECKING:
    from student.decoding.interface import NextUnitScorer

NOTE_NAME, ARPA_NAME = "language_model.json", "ngram.arpa"
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What a folder's language model is.

    kind : of KINDS     recipe : all that decides it     units_sha256 : of the units' model, "" for words
    text : counts of sentences and words     figures : discounts, perplexities, sizes, seconds
    files_sha256 : of the model's files by name
    """

    format: int
    kind: str
    recipe: Mapping[str, Any]
    units_sha256: str
    text: Mapping[str, int]
    figures: Mapping[str, Any]
    files_sha256: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Names the model: SHA-256, hex, of its files and its units."""
        facts = {"files": dict(self.files_sha256), "units": self.units_sha256, "kind": self.kind}
        return hashlib.sha256(canonical_json(facts).encode()).hexdigest()


def read_note(folder: Path) -> Note:
    """The note of a finished language model. Raises PipelineError where there is none, or a damaged one."""
    path = folder / NOTE_NAME
    if not is_there(path):
        raise PipelineError(
            f"{folder}: no language model; make one with `bert2ctc lm ngram` or `bert2ctc lm train`"
        )
    note = FILES.record(Note, path, f"move {folder} away and make it again")
    if note.format != _FORMAT or note.kind not in KINDS:
        raise PipelineError(
            f"{path}: is format {note.format}, kind {note.kind!r}; this version reads format {_FORMAT}, "
            f"{listed(KINDS, 3, ', ')}; move {folder} away and make it again"
        )
    return note


def finished(folder: Path, kind: str, recipe: Mapping[str, Any]) -> Note | None:
    """The note of an equal model, None where there is nothing. Raises PipelineError for another model."""
    if not folder.exists():
        return None
    note = read_note(folder)
    found = differences({**note.recipe, "kind": note.kind}, {**recipe, "kind": kind})
    if found:
        raise PipelineError(
            f"{folder}: was made otherwise ({listed(phrases(found))}); nothing was changed; move it away"
        )
    return note


def publish(
    folder: Path,
    write: Callable[[Path], None],
    *,
    kind: str,
    recipe: Mapping[str, Any],
    units: Units | None,
    text: Mapping[str, int],
    figures: Mapping[str, Any],
) -> Note:
    """Let a model appear in its folder, whole or not at all.

    write : puts its files into an empty folder
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with disk_faults_told(folder, told_as=PipelineError):
        partial.mkdir(parents=True)
        write(partial)
        note = Note(
            format=_FORMAT,
            kind=kind,
            recipe=recipe,
            units_sha256=units_digest(units) if units else "",
            text=text,
            figures=figures,
            files_sha256={path.name: file_digest(path) for path in sorted(partial.iterdir())},
        )
        write_json(partial / NOTE_NAME, asdict(note))
        publish_folder(partial, folder)
    return note


def units_digest(units: Units) -> str:
    """SHA-256, hex, of the bytes of the units' model."""
    return hashlib.sha256(units.model_bytes).hexdigest()


def open_scorer(path: Path, units: Units) -> NextUnitScorer:
    """The scorer of a language model over a student's units: a folder of ours, or anybody's ARPA file.

    Raises PipelineError for a model of words or of other units, and for files that are not what their note
    says.
    """
    if not path.is_dir():
        return _ngram_scorer(path, units, file_digest(path))
    note = read_note(path)
    if note.kind == WORDS:
        raise PipelineError(
            f"{path}: is an n-gram of words, which decoder `words` takes; make one of units with "
            "`bert2ctc lm ngram --of units`"
        )
    if note.units_sha256 != units_digest(units):
        advice = "`bert2ctc lm ngram --of units`" if note.kind == UNITS else "`bert2ctc lm train`"
        raise PipelineError(
            f"{path}: is of other units than the student's ({note.units_sha256[:8]}, not "
            f"{units_digest(units)[:8]}); make one of these with {advice}"
        )
    for name, digest in note.files_sha256.items():
        if file_digest(path / Path(name).name) != digest:
            raise PipelineError(
                f"{path / name}: is not the file of its note; move {path} away and make it again"
            )
    if note.kind == UNITS:
        return _ngram_scorer(path / ARPA_NAME, units, note.digest)
    from pipeline.language_model.network_scorer import open_network

    return open_network(path, units.size, note.digest)


def _ngram_scorer(arpa: Path, units: Units, digest: str) -> NextUnitScorer:
    from pipeline.language_model.arpa import read_arpa
    from pipeline.language_model.ngram_scorer import NgramScorer

    return NgramScorer(read_arpa(arpa), units.pieces, digest)


_GIVE = "give an ARPA file, or the folder of a language model of `bert2ctc lm ls`"


def file_digest(path: Path, advice: str = _GIVE) -> str:
    """SHA-256, hex, of a regular file; a PipelineError with the advice where it cannot be read."""
    with FILES.faults_told(path, advice), open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
