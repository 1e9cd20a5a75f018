"""A trained model as three plain files that anything can read: weights, settings, units."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from torch import Size, Tensor

from student.config import StudentConfig
from student.data.units import Units
from student.errors import StudentError
from student.files import FILES, disk_faults_told
from student.inference.averaging import Average, inference_checkpoint
from student.inference.config_toml import config_of, tables_of, toml_of
from student.inference.safetensors import read_safetensors, safetensors_bytes
from student.model.size import shapes_of
from student.model.student_model import Bert2CTC, inference_state
from student.training.checkpoint import Checkpoint, require_finite
from teacher_cache.common.files import publish_folder
from teacher_cache.common.small_files import is_there, open_regular
from teacher_cache.common.typed import convert

FORMAT = "bert2ctc model"
FORMAT_VERSION = 1
MAX_SETTINGS_BYTES = 1 << 20
_AGAIN = "remove the folder and export the run again"
WEIGHTS_NAME, SETTINGS_NAME, UNITS_NAME = "model.safetensors", "model.toml", "units.model"


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """What an exported folder holds; `weights` is the state of `Bert2CTC(config, num_units, None)`."""

    config: StudentConfig
    weights: dict[str, Tensor]
    units_model: bytes
    step: int


@dataclass(frozen=True, slots=True)
class Exported:
    """What `export_model` left: parameters and buffers, bytes of all files, was it there already."""

    path: Path
    source: str
    step: int
    weights: int
    bytes: int
    is_reused: bool


def export_model(run: Path, folder: Path, average: Average | None = None) -> Exported:
    """Write the inference model of a run folder or checkpoint to `folder`, whole or not at all.

    Raises StudentError where the folder is there and holds anything but exactly this model.
    """
    checkpoint, source = inference_checkpoint(run, average)
    inference_model(
        checkpoint.config, inference_state(dict(checkpoint.model)), checkpoint.units_model, source
    )
    require_finite(inference_state(dict(checkpoint.model)), f"{source}: not exported")
    files = _files(checkpoint)
    weights = sum(tensor.numel() for tensor in inference_state(dict(checkpoint.model)).values())
    size = sum(map(len, files.values()))
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        if not _holds(folder, files):
            raise StudentError(f"{folder}: is there and holds something else; choose another folder")
        return Exported(folder, source, checkpoint.step, weights, size, True)
    _write_folder(folder, files)
    return Exported(folder, source, checkpoint.step, weights, size, False)


def inference_model(
    config: StudentConfig, state: dict[str, Tensor], units_model: bytes, source: str
) -> tuple[Bert2CTC, Units]:
    """The model without decoders and its units. Raises StudentError where weights and config do not fit."""
    units = Units(units_model)
    told = f"{source}: weights do not fit their config or this version"
    asked, given = shapes_of(config, units.size, None), {name: tensor.shape for name, tensor in state.items()}
    others = sorted(name for name in asked | given if asked.get(name) != given.get(name))
    if others:  # told before a model is made that is larger than the file, or than any memory
        first = others[0]
        raise StudentError(
            f"{told} ({first} is {_shown(given.get(first))}, not {_shown(asked.get(first))}, and "
            f"{len(others) - 1} more differ); train the model again"
        )
    model = Bert2CTC(config, units.size, None)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise StudentError(f"{told} ({reason}); train the model again") from None
    return model, units


def _shown(shape: Size | None) -> str:
    return "absent" if shape is None else str(tuple(shape))


def is_exported(folder: Path) -> bool:
    """True for a folder that `export_model` wrote."""
    return is_there(folder / SETTINGS_NAME) and is_there(folder / WEIGHTS_NAME)


def read_exported(folder: Path) -> ExportedModel:
    """The model of an exported folder. Raises StudentError where a file is absent, damaged or not its own."""
    for name in (WEIGHTS_NAME, SETTINGS_NAME, UNITS_NAME):
        if not is_there(folder / name):
            raise StudentError(f"{folder}: no {name}; remove the folder and export the run again")
    text = FILES.text(folder / SETTINGS_NAME, _AGAIN, MAX_SETTINGS_BYTES)
    config, facts = config_of(text, folder / SETTINGS_NAME)
    if facts.get("format") != FORMAT or facts.get("format_version") != FORMAT_VERSION:
        raise StudentError(
            f"{folder}: format {facts.get('format')} {facts.get('format_version')}, this code reads "
            f"{FORMAT} {FORMAT_VERSION}; export the run again"
        )
    for name, key in ((WEIGHTS_NAME, "weights_sha256"), (UNITS_NAME, "units_sha256")):
        with FILES.faults_told(folder / name, _AGAIN), open_regular(folder / name) as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != facts.get(key):
            raise StudentError(
                f"{folder / name}: not what {SETTINGS_NAME} describes; copy or export it again"
            )
    weights, _ = read_safetensors(folder / WEIGHTS_NAME)
    with FILES.faults_told(folder / SETTINGS_NAME, _AGAIN):
        step = convert(int, facts.get("step"), "step")
    return ExportedModel(config, weights, FILES.bytes(folder / UNITS_NAME, _AGAIN), step)


def _files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Content by name; the same model gives the same bytes."""
    weights = safetensors_bytes(inference_state(dict(checkpoint.model)), {"format": "pt"})
    facts = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "step": checkpoint.step,
        "cache_fingerprint": checkpoint.cache_fingerprint,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "units_sha256": hashlib.sha256(checkpoint.units_model).hexdigest(),
    }
    tables = tables_of(checkpoint.config)
    tables["trainer"]["initial_checkpoint"] = ""  # a path on the machine that trained
    settings = toml_of({**tables, "versions": dict(checkpoint.versions)}, facts)
    return {WEIGHTS_NAME: weights, SETTINGS_NAME: settings.encode(), UNITS_NAME: checkpoint.units_model}


def _holds(folder: Path, files: dict[str, bytes]) -> bool:
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return names == files.keys() and all(
        FILES.bytes(folder / name, "choose another folder", len(files[name]) + 1) == files[name]
        for name in files
    )


def _write_folder(folder: Path, files: dict[str, bytes]) -> None:
    folder = folder.absolute()
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    try:
        with disk_faults_told(folder):
            partial.mkdir(parents=True)
            for name, content in files.items():
                (partial / name).write_bytes(content)
            publish_folder(partial, folder)  # replaces an empty folder, no other
    finally:
        shutil.rmtree(partial, ignore_errors=True)
