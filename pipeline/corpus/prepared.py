"""What `data prepare` wrote, held to the digests of its record before anything reads it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from pipeline.config import ExperimentConfig
from pipeline.errors import PipelineError
from pipeline.files import FILES
from pipeline.paths import Roots, prepared_folder
from teacher_cache.common.files import file_sha256
from teacher_cache.common.small_files import is_there
from teacher_cache.common.typed import convert

RECORD_NAME = "prepare.json"
FILES_SHA256 = "files_sha256"  # in RECORD_NAME; folders of before have none
_READ = ("*.jsonl", "units.model")  # what later commands take from the folder


def sound_preparation(config: ExperimentConfig, roots: Roots) -> Path:
    """The folder with a config's manifests and units; PipelineError where one is not as it was written.

    Who reads a file of it tells that it is missing; a folder without a record, or of before digests were
    kept, is taken as it is.
    """
    folder = prepared_folder(config, roots)
    if is_there(folder / RECORD_NAME):
        require_unchanged(folder)
    return folder


def digests_of(folder: Path) -> dict[str, str]:
    """Name -> hexadecimal sha256 of what later commands read."""
    return {path.name: file_sha256(path) for pattern in _READ for path in sorted(folder.glob(pattern))}


def require_unchanged(folder: Path) -> None:
    """PipelineError where a file of a preparation is there and is not the one of the record."""
    again = f"move {shlex.quote(str(folder))} away and run `bert2ctc data prepare` again"
    path = folder / RECORD_NAME
    record = FILES.json(path, again)
    with FILES.faults_told(path, again):
        written = convert(Mapping[str, str], record.get(FILES_SHA256, {}), FILES_SHA256)
    for name, digest in written.items():
        file = folder / Path(name).name
        if not is_there(file):
            continue
        with FILES.faults_told(file, again):
            found = file_sha256(file)
        if found != digest:
            raise PipelineError(
                f"{file}: is not as it was prepared (sha256 {found[:8]}, not {digest[:8]}); {again}"
            )
