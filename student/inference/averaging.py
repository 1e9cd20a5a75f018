"""One model from several checkpoints of a run: the plain mean of their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from student.errors import StudentError
from student.model.student_model import inference_state
from student.training.checkpoint import Checkpoint, load_checkpoint
from student.training.run_folder import best_saved_steps, model_path, saved_steps, step_path
from teacher_cache.common.differences import differences, listed, phrases

AVERAGES = ("last", "best")
_SHOWN = 5  # of what differs


@dataclass(frozen=True, slots=True, kw_only=True)
class Average:
    """Which checkpoints of a run to average: the last `count`, or the `count` with the lowest dev WER."""

    count: int
    of: str = "last"

    def __post_init__(self) -> None:
        if self.count < 1 or self.of not in AVERAGES:
            raise StudentError(f"average {self.count} of {self.of!r}: 1 or more, of {' or '.join(AVERAGES)}")

    @property
    def name(self) -> str:
        """For folders and files: average-last-3."""
        return f"average-{self.of}-{self.count}"

    def paths(self, run_dir: Path) -> list[Path]:
        """The checkpoints. Raises StudentError where the run has kept fewer."""
        steps = (
            saved_steps(run_dir)[-self.count :]
            if self.of == "last"
            else best_saved_steps(run_dir, self.count)
        )
        if len(steps) < self.count:
            key = "keep_checkpoints" if self.of == "last" else "keep_best_checkpoints"
            raise StudentError(
                f"{run_dir}: {len(steps)} checkpoints to average, {self.count} asked for; "
                f"ask for {len(steps)}, or train with trainer.{key}={self.count}"
            )
        return [step_path(run_dir, step) for step in steps]


def average_checkpoints(paths: Sequence[Path]) -> Checkpoint:
    """The last of the checkpoints with the mean of all inference weights, summed in float32.

    Holds no optimiser and no decoder. Raises StudentError where configs, units or shapes differ.
    """
    first = _for_use(paths[0])
    sums = {name: tensor.float() for name, tensor in inference_state(dict(first.model)).items()}
    originals = inference_state(dict(first.model))
    is_constant = dict.fromkeys(originals, True)
    latest = first
    for path in paths[1:]:
        checkpoint = _for_use(path)
        _refuse_another(paths[0], first, path, checkpoint)
        for name, tensor in inference_state(dict(checkpoint.model)).items():
            is_constant[name] &= torch.equal(tensor, originals[name])
            sums[name] = sums[name] + tensor.float()
        latest = max(latest, checkpoint, key=lambda one: one.step)
    model = {
        # the sum of n equal values over n is not always that value
        name: original if is_constant[name] else (sums[name] / len(paths)).to(original.dtype)
        for name, original in originals.items()
    }
    return replace(latest, model=model, optimiser={})


def inference_checkpoint(run: Path, average: Average | None = None) -> tuple[Checkpoint, str]:
    """The checkpoint to use for inference and, in words, where it came from."""
    if average is None:
        source = model_path(run)
        return _for_use(source), str(source)
    if not run.is_dir():
        raise StudentError(f"{run}: one checkpoint has no average; give the run folder")
    return average_checkpoints(average.paths(run)), str(run / average.name)


def _for_use(path: Path) -> Checkpoint:
    """The checkpoint, its moving average in place of the weights where it holds one."""
    checkpoint = load_checkpoint(path)
    return replace(checkpoint, model=checkpoint.usable_model, average={}, averaged_steps=0)


def _refuse_another(first_path: Path, first: Checkpoint, path: Path, checkpoint: Checkpoint) -> None:
    wording = "{key} {old!r} and {new!r}"
    differing = phrases(differences(asdict(first.config), asdict(checkpoint.config)), wording)
    if checkpoint.units_model != first.units_model:
        differing.append("the units")
    differing += phrases(differences(_shapes(first), _shapes(checkpoint)), wording)
    if differing:
        raise StudentError(
            f"{first_path} and {path} cannot be averaged, they differ in {listed(differing, _SHOWN)}; "
            "average checkpoints of one run"
        )


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    state = inference_state(dict(checkpoint.model))
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
