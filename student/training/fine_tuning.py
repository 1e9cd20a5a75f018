"""A run that begins with another run's weights: what is taken over, what must agree, what starts anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from student.config import StudentConfig, weight_shapes
from student.data.training_data import TrainingData
from student.errors import StudentError
from student.model.student_model import Bert2CTC
from student.training.checkpoint import Checkpoint, load_checkpoint
from student.training.run_folder import model_path, saved_steps, step_path
from teacher_cache.common.differences import differences, listed, phrases

_SHOWN = 5


def begin_from(
    initial: Path, model: Bert2CTC, config: StudentConfig, data: TrainingData, say: Callable[[str], None]
) -> None:
    """Load the weights of a run folder or a checkpoint into a new run's model, in place.

    Feature statistics, encoder and CTC head always; decoders where the checkpoint has them for the same
    pieces. Optimiser, schedule and step start anew. What was taken is said in one line.
    Raises StudentError that names what differs, where encoder, features or units do not fit.
    """
    if not initial.exists():
        raise StudentError(f"{initial}: no such run or checkpoint; see trainer.initial_checkpoint")
    path = _richest_checkpoint(initial)
    checkpoint = load_checkpoint(path)
    _refuse_what_differs(path, checkpoint, config, data.units.model_bytes)
    wanted = model.state_dict()
    pieces = data.vocabulary.piece_ids if data.vocabulary else None
    has_decoders = any(name.startswith("decoders.") for name in wanted)
    taken = {name: tensor for name, tensor in checkpoint.usable_model.items() if name in wanted}
    if has_decoders and (checkpoint.pieces != pieces or not _fits_decoders(taken, wanted)):
        taken = {name: tensor for name, tensor in taken.items() if not name.startswith("decoders.")}
    _refuse_shapes(path, taken, wanted)
    model.load_state_dict({**wanted, **taken})
    decoders = ""
    if has_decoders:
        is_taken = any(name.startswith("decoders.") for name in taken)
        decoders = ", its decoders too" if is_taken else "; the decoders begin anew"
    say(f"began with the weights of {path}, step {checkpoint.step}{decoders}")


def _richest_checkpoint(initial: Path) -> Path:
    """The model's file, or the full checkpoint of the same step beside final.pt, which has the decoders."""
    path = model_path(initial)
    if initial.is_dir() and path.parent == initial and (steps := saved_steps(initial)):
        return step_path(initial, steps[-1])
    return path


def _refuse_what_differs(path: Path, checkpoint: Checkpoint, config: StudentConfig, units: bytes) -> None:
    found = differences(weight_shapes(checkpoint.config), weight_shapes(config))
    differing = phrases(found, "{key} {old!r}, here {new!r}")
    if checkpoint.units_model != units:
        differing.append("other CTC units: prepare the data with the units of that run")
    if differing:
        raise StudentError(
            f"{path} cannot be fine-tuned by this config: {listed(differing, _SHOWN)}; "
            "make them equal, or leave out trainer.initial_checkpoint"
        )


def _fits_decoders(taken: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    names = [name for name in wanted if name.startswith("decoders.")]
    return all(name in taken and taken[name].shape == wanted[name].shape for name in names)


def _refuse_shapes(path: Path, taken: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    faults = [
        f"{name} {tuple(taken[name].shape) if name in taken else 'absent'}, here {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if not name.startswith("decoders.") and (name not in taken or taken[name].shape != tensor.shape)
    ]
    if faults:
        raise StudentError(
            f"{path}: weights of another shape: {listed(faults, _SHOWN)}; "
            "take a checkpoint of this model, or leave out trainer.initial_checkpoint"
        )
