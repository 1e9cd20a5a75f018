"""The mean of checkpoints: the mean of their weights, of one run's only, in every command that takes one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from student.config import StudentConfig, TrainerConfig
from student.errors import StudentError
from student.inference.averaging import Average, average_checkpoints, inference_checkpoint
from student.training.checkpoint import Checkpoint, mark_best, save_checkpoint, saved_steps, step_path
from student.training.run_folder import best_saved_steps, prune_checkpoints


def checkpoint_of(step: int, weights: dict[str, torch.Tensor], **changes: Any) -> Checkpoint:
    made = Checkpoint(
        config=StudentConfig(),
        model=weights,
        optimiser={"state": {}},
        step=step,
        epoch=0,
        step_in_epoch=0,
        bad_steps_in_row=0,
        totals={},
        spike_detector={"mean_loss_per_second": 3.5, "num_steps": 7.0},
        branch_balance={"scale": 2.5},
        clipping={},
        average={},
        averaged_steps=0,
        loss_scale={},
        units_model=b"units",
        pieces=(1,),
        cache_fingerprint="abc",
        versions={},
    )
    return replace(made, **changes)


def saved(run_dir: Path, step: int, weights: dict[str, torch.Tensor], **changes: Any) -> Path:
    save_checkpoint(step_path(run_dir, step), checkpoint_of(step, weights, **changes))
    return step_path(run_dir, step)


def weights_of(seed: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        "ctc_head.weight": torch.randn(4, 3, generator=random),
        "encoder.half": torch.randn(5, generator=random).to(torch.bfloat16),
        "features.window": torch.linspace(0, 1, 1000),  # the same in every checkpoint
        "decoders.shared.bias": torch.randn(2, generator=random),
    }


def test_weights_are_the_mean_in_float32_and_decoders_are_left_out(tmp_path: Path) -> None:
    states = [weights_of(seed) for seed in range(7)]
    paths = [saved(tmp_path, step, state) for step, state in enumerate(states)]
    mean = average_checkpoints(paths)
    assert mean.step == 6 and not mean.optimiser
    assert mean.model.keys() == states[0].keys() - {"decoders.shared.bias"}
    for name in ("ctc_head.weight", "encoder.half"):
        exact = torch.stack([state[name].double() for state in states]).mean(0)
        assert mean.model[name].dtype == states[0][name].dtype
        torch.testing.assert_close(mean.model[name], exact.to(states[0][name].dtype))
    assert torch.equal(mean.model["features.window"], states[0]["features.window"])


def test_the_mean_of_one_is_itself_and_the_order_does_not_matter(tmp_path: Path) -> None:
    paths = [saved(tmp_path, step, weights_of(step)) for step in range(3)]
    alone = average_checkpoints(paths[:1]).model
    assert all(torch.equal(tensor, weights_of(0)[name]) for name, tensor in alone.items())
    forwards, backwards = average_checkpoints(paths), average_checkpoints(paths[::-1])
    assert forwards.step == backwards.step
    torch.testing.assert_close(dict(forwards.model), dict(backwards.model))


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        ({"config": StudentConfig(trainer=TrainerConfig(seed=7))}, "trainer.seed 1 and 7"),
        ({"units_model": b"others"}, "the units"),
        ({"model": weights_of(0) | {"ctc_head.weight": torch.zeros(1, 3)}}, r"\(4, 3\) and \(1, 3\)"),
        ({"model": {"ctc_head.weight": torch.zeros(4, 3)}}, "encoder.half .* and None"),
    ],
)
def test_checkpoints_of_different_models_are_refused(
    tmp_path: Path, changes: dict[str, Any], reported: str
) -> None:
    paths = [saved(tmp_path, 1, weights_of(0)), saved(tmp_path, 2, weights_of(1), **changes)]
    with pytest.raises(StudentError, match=reported):
        average_checkpoints(paths)


def measured(run_dir: Path, wers: dict[int, float]) -> None:
    """Saved steps and the dev WER of each."""
    for step in wers:
        saved(run_dir, step, weights_of(step))
    entries = [{"kind": "dev", "step": step, "wer": wer} for step, wer in wers.items()]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def test_the_last_and_the_best_are_found(tmp_path: Path) -> None:
    measured(tmp_path, {1: 0.5, 2: 0.2, 3: 0.4, 4: 0.2, 5: 0.9})
    last, best = (Average(count=2, of=of).paths(tmp_path) for of in ("last", "best"))
    assert last == [step_path(tmp_path, 4), step_path(tmp_path, 5)]
    assert best == [step_path(tmp_path, 2), step_path(tmp_path, 4)]
    with pytest.raises(StudentError, match=r"5 checkpoints .* 6 asked for.*keep_checkpoints=6"):
        Average(count=6).paths(tmp_path)


def test_as_many_of_the_best_are_kept_as_asked(tmp_path: Path) -> None:
    wers = {1: 0.5, 2: 0.2, 3: 0.4, 4: 0.3, 5: 0.9, 6: 0.8}
    measured(tmp_path, wers)
    mark_best(tmp_path, 2, 0.2)
    prune_checkpoints(tmp_path, keep=1, keep_best=3)
    assert saved_steps(tmp_path) == [2, 3, 4, 6]
    assert best_saved_steps(tmp_path, 3) == [2, 4, 3]


@pytest.mark.parametrize("wrong", [{"count": 0}, {"count": 2, "of": "middle"}])
def test_an_average_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(StudentError, match="last or best"):
        Average(**wrong)


def test_a_run_s_moving_average_stands_for_its_weights(tmp_path: Path) -> None:
    weights, moving = weights_of(0), {"ctc_head.weight": torch.full((4, 3), 0.25)}
    path = saved(tmp_path, 1, weights, average=moving, averaged_steps=1)
    used, _ = inference_checkpoint(path)
    assert torch.equal(used.model["ctc_head.weight"], moving["ctc_head.weight"])
    assert torch.equal(used.model["features.window"], weights["features.window"]) and not used.average
    other = saved(tmp_path, 2, weights, average={"ctc_head.weight": torch.full((4, 3), 0.75)})
    mean = average_checkpoints([path, other])
    assert torch.equal(mean.model["ctc_head.weight"], torch.full((4, 3), 0.5))
