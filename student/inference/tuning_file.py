"""What `bert2ctc tune` leaves in a run: a decoder's weights, what they belong to, and all that was tried."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from student.decoding.weights import FusionWeights
from student.errors import StudentError
from student.files import FILES, write_json
from student.inference.recogniser import Recogniser
from student.inference.safetensors import safetensors_bytes
from student.model.student_model import inference_state
from teacher_cache.common.small_files import is_there

_ADVICE = "tune again with `bert2ctc tune RUN`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One point of the search and dev's error rates there."""

    language: float
    insertion: float
    prior: float
    wer: float
    cer: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """`<run>/tuning/<row>.json`.

    model : `model_digest` of the student that was tuned     checkpoint : the name of its file
    language_model, lexicon : paths, "" for none     language_model_digest : of the scorer, or of the file
    settings : of the decoder's dataclass, by name     log_prior : by unit, empty where no prior is used
    split, utterances : what was decoded; greedy_wer : there, without any of this
    manifest : SHA-256, hex, of the split's manifest; "" in files of before it was kept
    """

    decoder: str
    model: str
    checkpoint: str
    language_model: str
    language_model_digest: str
    lexicon: str
    weights: FusionWeights
    settings: Mapping[str, int | float]
    log_prior: tuple[float, ...]
    split: str
    utterances: int
    greedy_wer: float
    wer: float
    cer: float
    seconds: float
    trials: tuple[Trial, ...]
    manifest: str = ""


def tuning_path(run_dir: Path, row: str, average: str = "") -> Path:
    """Where the tuning of a row of results lies; of an average one folder further down, by its name.

    row : the decoder's name, or that and a label
    """
    return run_dir / "tuning" / average / f"{row}.json"


def write_tuning(path: Path, tuning: Tuning) -> None:
    """Write it whole or not at all."""
    write_json(path, asdict(tuning))


def stored_tuning(path: Path) -> Tuning | None:
    """The tuning of a file, whoever's it is; None where there is none."""
    return FILES.record(Tuning, path, _ADVICE) if is_there(path) else None


def read_tuning(path: Path, recogniser: Recogniser, decoder: str) -> Tuning:
    """The tuning of this student's decoder. Raises StudentError where there is none, or another's."""
    tuning = stored_tuning(path)
    if tuning is None:
        raise StudentError(
            f"{path}: no weights for the decoder {decoder}; search them with `bert2ctc tune RUN`"
        )
    if tuning.decoder != decoder:
        raise StudentError(f"{path}: weights of the decoder {tuning.decoder}, not of {decoder}; {_ADVICE}")
    digest = model_digest(recogniser)
    if tuning.model != digest:
        raise StudentError(
            f"{path}: weights of another student ({tuning.checkpoint}, {tuning.model[:12]}), this one is "
            f"{recogniser.source.name}, {digest[:12]}; {_ADVICE}"
        )
    return tuning


def refuse_another_model(tuning: Tuning, digest: str, path: Path, where: Path) -> None:
    """StudentError where the language model at `path` is not the one of the tuning at `where`."""
    if tuning.language_model_digest != digest:
        raise StudentError(
            f"{path}: language model {digest[:12]}, but {where} was tuned with "
            f"{tuning.language_model_digest[:12]}; {_ADVICE}"
        )


def model_digest(recogniser: Recogniser) -> str:
    """SHA-256, hex, of the inference weights and the units: the same for a checkpoint and its export."""
    state = inference_state(dict(recogniser.model.state_dict()))
    found = hashlib.sha256(safetensors_bytes(state, {}))
    found.update(recogniser.units.model_bytes)
    return found.hexdigest()
