"""A checkpoint is whole or not there, holds everything, and runs nothing when it is read."""

from __future__ import annotations

import os
import resource
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.amp.grad_scaler import GradScaler

from student.config import AugmentationConfig, ConformerConfig, StudentConfig
from student.data.units import train_units
from student.errors import StudentError
from student.model.student_model import Bert2CTC
from student.training.checkpoint import (
    FINAL_NAME,
    Checkpoint,
    best_step,
    load_checkpoint,
    mark_best,
    model_path,
    prune_checkpoints,
    save_checkpoint,
    saved_steps,
    step_path,
)
from student.training.optimisation.branch_balance import BranchBalance
from student.training.optimisation.clipping import Clipping
from student.training.optimisation.spike_detection import SpikeDetector
from student.training.optimisation.step import Optimisation
from student.training.optimisation.weight_average import WeightAverage


def checkpoint_of(step: int = 7, weights: int = 10) -> Checkpoint:
    model = torch.nn.Linear(weights, 2)
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, weights)).sum().backward()
    optimiser.step()
    return Checkpoint(
        config=StudentConfig(
            conformer=ConformerConfig(num_layers=3, taps=(1, 2)),
            augmentation=AugmentationConfig(speed_factors=(0.9, 1.0)),
        ),
        model=model.state_dict(),
        optimiser=optimiser.state_dict(),
        step=step,
        epoch=2,
        step_in_epoch=3,
        bad_steps_in_row=1,
        totals={"seconds": 1.5},
        spike_detector={"mean_loss_per_second": 3.5, "num_steps": 7.0},
        branch_balance={"scale": 2.5},
        clipping={"mean_log_norm": 1.5, "num_steps": 7.0},
        average={"weight": torch.full((2, weights), 0.5)},
        averaged_steps=6,
        loss_scale={"scale": 1024.0},
        units_model=bytes(range(256)),
        pieces=(3, 5),
        cache_fingerprint="abc",
        versions={"torch": "2"},
    )


def checkpoint_of_student(folder: Path) -> Checkpoint:
    """Of an untrained student with units of its own, below `folder`."""
    config, units_model = StudentConfig(), folder / "units.model"
    units, _ = train_units(["a sea of words"], units_model, 12)
    state = Bert2CTC(config, units.size, None).state_dict()
    return replace(checkpoint_of(), config=config, model=state, average={}, units_model=units.model_bytes)


def optimisation_of(weights: int = 10) -> Optimisation:
    """What a run restores into, around the model of `checkpoint_of`; no data is touched."""
    made = Optimisation.__new__(Optimisation)
    made.model = torch.nn.Linear(weights, 2)  # type: ignore[assignment]
    made.optimiser = torch.optim.AdamW(made.model.parameters())
    made.scaler = GradScaler("cpu", enabled=True)
    made.spikes, made.balance = SpikeDetector(10.0), BranchBalance(StudentConfig())
    made.clipping = Clipping(StudentConfig().trainer)
    made.average = WeightAverage(made.model, 0.9)
    return made


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    saved = checkpoint_of()
    save_checkpoint(tmp_path / "a.pt", saved)
    loaded = load_checkpoint(tmp_path / "a.pt")
    tensors = {"model": saved.model, "optimiser": saved.optimiser, "average": saved.average}
    assert replace(loaded, **tensors) == saved
    assert all(torch.equal(loaded.model[name], tensor) for name, tensor in saved.model.items())
    assert torch.equal(loaded.average["weight"], saved.average["weight"])
    assert torch.equal(loaded.usable_model["weight"], saved.average["weight"])
    assert torch.equal(loaded.usable_model["bias"], saved.model["bias"])
    assert torch.equal(loaded.optimiser["state"][0]["exp_avg"], saved.optimiser["state"][0]["exp_avg"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_checkpoint_without_decoders_has_no_pieces(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", replace(checkpoint_of(), pieces=None))
    assert load_checkpoint(tmp_path / "a.pt").pieces is None


@pytest.mark.parametrize("damage", ["empty", "half", "text", "absent", "flipped"])
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, checkpoint_of())
    whole = path.read_bytes()
    weights = load_checkpoint(path).model["weight"].numpy().tobytes()
    flipped = whole.replace(weights, bytes([weights[0] ^ 64]) + weights[1:])
    files = {"empty": b"", "half": whole[: len(whole) // 2], "text": b"hello", "flipped": flipped}
    path.write_bytes(files.get(damage, whole))
    if damage == "absent":
        path.unlink()
    with pytest.raises(StudentError, match=r"a\.pt") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path, ("/",)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"format_version": 1, "model": RunsCode()}, tmp_path / "a.pt")
    with pytest.raises(StudentError, match="could run a program.*; delete it") as caught:
        load_checkpoint(tmp_path / "a.pt")
    assert "\n" not in str(caught.value)
    assert not any(word in str(caught.value) for word in ("weights_only", "torch.load", "trust", "succeed"))


@pytest.mark.parametrize("content", [{"format_version": 99}, {"weights": 1}, torch.ones(2)])
def test_another_format_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(StudentError, match="format"):
        load_checkpoint(tmp_path / "a.pt")


@contextmanager
def files_no_larger_than(limit_bytes: int) -> Iterator[None]:
    """The system refuses to grow a file beyond the limit, as a full disk would.

    Held for as short as can be: the limit is the process's, and the runner's own log may be longer already.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_loses_nothing_that_was_saved(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", checkpoint_of(step=1))
    with files_no_larger_than(20_000), pytest.raises(StudentError, match="free space"):
        save_checkpoint(tmp_path / "a.pt", checkpoint_of(step=2, weights=50_000))
    assert load_checkpoint(tmp_path / "a.pt").step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_the_last_n_and_the_best_are_kept(tmp_path: Path) -> None:
    for step in range(10, 60, 10):
        save_checkpoint(step_path(tmp_path, step), checkpoint_of(step))
    mark_best(tmp_path, 20, 0.25)
    prune_checkpoints(tmp_path, keep=2)
    assert saved_steps(tmp_path) == [20, 40, 50]
    assert best_step(tmp_path) == (20, 0.25)


def test_a_model_is_used_from_final_else_best_else_last(tmp_path: Path) -> None:
    with pytest.raises(StudentError, match="bert2ctc train"):
        model_path(tmp_path)
    for step in (10, 20):
        save_checkpoint(step_path(tmp_path, step), checkpoint_of(step))
    assert model_path(tmp_path) == step_path(tmp_path, 20)
    mark_best(tmp_path, 10, 0.1)
    assert model_path(tmp_path) == step_path(tmp_path, 10)
    save_checkpoint(tmp_path / FINAL_NAME, checkpoint_of())
    assert model_path(tmp_path) == tmp_path / FINAL_NAME
    assert model_path(step_path(tmp_path, 20)) == step_path(tmp_path, 20)


@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_a_final_model_that_is_no_file_is_told_and_no_other_is_taken_for_it(
    tmp_path: Path, put: Callable[[Path], object]
) -> None:
    save_checkpoint(step_path(tmp_path, 10), checkpoint_of(10))
    put(tmp_path / FINAL_NAME)
    with pytest.raises(StudentError, match=r"final\.pt: is a (folder|pipe), not a file"):
        load_checkpoint(model_path(tmp_path))


def test_a_checkpoint_of_format_2_goes_on_with_what_it_kept_among_its_totals(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "new.pt", checkpoint_of())
    content = torch.load(tmp_path / "new.pt", weights_only=True)
    del content["spike_detector"], content["branch_balance"], content["clipping"]
    del content["average"], content["averaged_steps"]
    content["format_version"] = 2
    kept = {"mean_loss_per_second": 8.0, "watched_steps": 31.0, "branch_scale": 4.0}
    torch.save(content | {"totals": {"seconds": 1.5, **kept}}, tmp_path / "a.pt")
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert loaded.totals == {"seconds": 1.5}
    assert loaded.spike_detector == {"mean_loss_per_second": 8.0, "num_steps": 31.0}
    assert loaded.branch_balance == {"scale": 4.0}
    torch.save(content | {"totals": {"seconds": 1.5}}, tmp_path / "a.pt")  # of before there were either
    assert load_checkpoint(tmp_path / "a.pt").branch_balance == {"scale": 1.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["weights", "moments"])
def test_what_is_not_finite_is_never_written_over_a_good_checkpoint(
    tmp_path: Path, value: float, where: str
) -> None:
    save_checkpoint(tmp_path / "a.pt", checkpoint_of(step=1))
    ruined = checkpoint_of(step=2)
    tensor = ruined.model["weight"] if where == "weights" else ruined.optimiser["state"][0]["exp_avg_sq"]
    with torch.no_grad():
        tensor[0, 0] = value
    with pytest.raises(StudentError, match="not saved: .* holds NaN or infinity") as caught:
        save_checkpoint(tmp_path / "a.pt", ruined)
    assert "\n" not in str(caught.value)
    assert load_checkpoint(tmp_path / "a.pt").step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def altered(tmp_path: Path, **changes: Any) -> Path:
    """A sound zip that torch wrote, with other contents; None takes one away."""
    save_checkpoint(tmp_path / "sound.pt", checkpoint_of())
    content = torch.load(tmp_path / "sound.pt", weights_only=True) | changes
    path = tmp_path / "a.pt"
    torch.save({name: value for name, value in content.items() if value is not None}, path)
    return path


CONFIG = asdict(StudentConfig())
WRONG_CONTENTS: dict[str, dict[str, Any]] = {
    "no model": {"model": None},
    "no config": {"config": None},
    "a list for a config": {"config": [1]},
    "an unknown table": {"config": {**CONFIG, "wheels": {}}},
    "an unknown setting": {"config": {**CONFIG, "trainer": {"wheels": 4}}},
    "a setting beyond its range": {"config": {**CONFIG, "conformer": {"num_heads": 0}}},
    "a setting of another type": {"config": {**CONFIG, "trainer": {"max_steps": "many"}}},
    "words for weights": {"model": {"weight": "heavy"}},
    "a tensor for a model": {"model": torch.ones(2)},
    "a word for a step": {"step": "seven"},
    "a number for a fingerprint": {"cache_fingerprint": 7},
    "words for pieces": {"pieces": ("a",)},
    "words for totals": {"totals": {"seconds": "long"}},
    "a list for the optimiser": {"optimiser": [1]},
    "no units": {"units_model": None},
    "bytes for units": {"units_model": b"abc"},
    "floats for units": {"units_model": torch.ones(3)},
    "far too many units": {"units_model": torch.zeros(1, dtype=torch.uint8).expand(1 << 40)},
    "units without memory": {"units_model": torch.zeros(3, dtype=torch.uint8, device="meta")},
    "a format of tensors": {"format_version": torch.ones(2)},
    "format 2 without totals": {"format_version": 2, "totals": None},
}


@pytest.mark.parametrize("wrong", WRONG_CONTENTS)
def test_a_sound_zip_with_wrong_contents_is_refused_in_one_line(tmp_path: Path, wrong: str) -> None:
    path = altered(tmp_path, **WRONG_CONTENTS[wrong])
    with pytest.raises(StudentError, match=r"a\.pt: ") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert load_checkpoint(altered(tmp_path)).step == 7


def test_packed_parts_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(1 << 20))
    with pytest.raises(StudentError, match="compressed, which torch.save never does"):
        load_checkpoint(tmp_path / "a.pt")


FOREIGN_STATES: dict[str, Callable[[dict[str, Any]], object]] = {
    "weights of another shape": lambda content: content["model"].update({"weight": torch.ones(3, 3)}),
    "a weight is missing": lambda content: content["model"].pop("weight"),
    "no optimiser": lambda content: content.update(optimiser={}),
    "moments of another shape": lambda content: content["optimiser"]["state"][0].update(
        exp_avg=torch.ones(7)
    ),
    "fewer groups": lambda content: content["optimiser"]["param_groups"].pop(),
    "no mean of the loss": lambda content: content.update(spike_detector={}),
    "no scale of the branch": lambda content: content.update(branch_balance={}),
    "an average of fewer weights": lambda content: content["average"].pop("weight"),
    "another scaler": lambda content: content.update(loss_scale={"weight": 1.0}),
}


@pytest.mark.parametrize("foreign", FOREIGN_STATES)
def test_states_that_do_not_fit_the_run_are_refused_in_one_line(tmp_path: Path, foreign: str) -> None:
    scale = GradScaler("cpu").state_dict()
    saved = checkpoint_of()
    save_checkpoint(tmp_path / "a.pt", replace(saved, loss_scale=scale, average=dict(saved.model)))
    optimisation = optimisation_of()
    optimisation.restore(load_checkpoint(tmp_path / "a.pt"))
    assert optimisation.scaler.state_dict() == scale
    assert type(optimisation.scaler.state_dict()["growth_interval"]) is int
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    FOREIGN_STATES[foreign](content)
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(StudentError, match="the checkpoint of step 7 does not fit") as caught:
        optimisation.restore(load_checkpoint(tmp_path / "a.pt"))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_format_3_goes_on_with_no_norm_learnt_and_no_average(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "new.pt", checkpoint_of())
    content = torch.load(tmp_path / "new.pt", weights_only=True)
    del content["clipping"], content["average"], content["averaged_steps"]
    torch.save(content | {"format_version": 3}, tmp_path / "a.pt")
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert (loaded.average, loaded.averaged_steps) == ({}, 0)
    assert loaded.usable_model.keys() == loaded.model.keys()
    assert loaded.clipping == {} and loaded.branch_balance == {"scale": 2.5}
