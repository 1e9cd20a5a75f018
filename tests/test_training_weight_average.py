"""A moving average of the weights: what it is, that training does not feel it, and where it is used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import ctc_alone, tiny_job
from torch import nn

from student.inference.averaging import inference_checkpoint
from student.training.checkpoint import load_checkpoint, step_path
from student.training.optimisation.weight_average import WeightAverage
from student.training.run_folder import dev_wers, metrics
from student.training.trainer import TrainingJob, train


def set_to(model: nn.Linear, value: float) -> None:
    with torch.no_grad():
        model.weight.fill_(value)


@pytest.mark.parametrize("decay", [0.05, 0.9, 0.999])
def test_it_is_the_recursion_with_a_decay_that_grows_with_its_age(decay: float) -> None:
    model = nn.Linear(3, 2, bias=False)
    values = np.random.default_rng(0).normal(size=200)
    set_to(model, 5.0)
    average, expected = WeightAverage(model, decay), 5.0
    for step, value in enumerate(values):
        set_to(model, value)
        average.learn()
        memory = min(decay, (1 + step) / (10 + step))
        expected = memory * expected + (1 - memory) * value
    assert float(average.state()["weight"][0, 0]) == pytest.approx(expected, rel=1e-4)


def test_what_the_weights_were_at_random_is_soon_gone() -> None:
    model = nn.Linear(1, 1, bias=False)
    set_to(model, 1.0)
    average = WeightAverage(model, 0.9999)
    set_to(model, 0.0)
    left = []
    for _ in range(100):
        average.learn()
        left.append(float(average.state()["weight"]))
    assert left[0] == pytest.approx(0.1) and left[9] < 1e-4 and left[99] < 1e-12


def test_weights_that_stand_still_are_their_own_average_to_the_bit() -> None:
    model = nn.Linear(7, 5)
    average = WeightAverage(model, 0.99)
    for _ in range(50):
        average.learn()
    assert all(torch.equal(average.state()[name], value) for name, value in model.named_parameters())


def test_the_weights_that_train_come_back_to_the_bit_after_an_error_too() -> None:
    model = nn.Linear(7, 5)
    average = WeightAverage(model, 0.5)
    with torch.no_grad():
        model.weight.mul_(3.3)
    average.learn()
    trained = model.weight.detach().clone()
    with pytest.raises(ZeroDivisionError), average.applied():
        assert torch.equal(model.weight, average.state()["weight"])
        assert not torch.equal(model.weight, trained)
        1 / 0  # noqa: B018
    assert torch.equal(model.weight, trained)


def test_without_a_decay_nothing_is_held() -> None:
    model = nn.Linear(7, 5)
    average = WeightAverage(model, 0.0)
    average.learn()
    before = model.weight.detach().clone()
    with average.applied():
        assert torch.equal(model.weight, before)
    assert average.state() == {}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingJob]:
    threads = torch.get_num_threads()
    job = tiny_job(tmp_path_factory.mktemp("average"), num_train=16, num_dev=4)
    few = ctc_alone(job, max_steps=4, evaluate_every_steps=2, checkpoint_every_steps=2)
    averaging = replace(few.config, trainer=replace(few.config.trainer, average_decay=0.7))
    train(few)
    yield replace(few, config=averaging, run_dir=few.run_dir.with_name("averaged"))
    torch.set_num_threads(threads)


def test_training_goes_as_without_it_and_dev_final_and_fine_tuning_take_the_average(
    job: TrainingJob, tmp_path: Path
) -> None:
    train(job)
    plain = job.run_dir.with_name("run")
    one, other = (load_checkpoint(step_path(run_dir, 4)) for run_dir in (plain, job.run_dir))
    assert all(torch.equal(tensor, other.model[name]) for name, tensor in one.model.items())
    assert one.average == {} and other.averaged_steps == 4
    losses = [
        [entry["loss"] for entry in metrics(run_dir) if entry["kind"] == "dev"]
        for run_dir in (plain, job.run_dir)
    ]
    assert all(without != pytest.approx(averaged) for without, averaged in zip(*losses, strict=True))
    final, used = (
        load_checkpoint(job.run_dir / "final.pt"),
        inference_checkpoint(step_path(job.run_dir, 4))[0],
    )
    for name, tensor in other.average.items():
        assert torch.equal(final.model[name], tensor) and torch.equal(used.model[name], tensor)
    assert final.average == {} and not torch.equal(
        final.model["ctc_head.weight"], one.model["ctc_head.weight"]
    )
    assert list(dev_wers(job.run_dir)) == [2, 4]
    trainer = replace(job.config.trainer, initial_checkpoint=str(job.run_dir), learning_rate=0.0, max_steps=1)
    tuned = replace(job, config=replace(job.config, trainer=trainer), run_dir=tmp_path)
    train(tuned)
    began = load_checkpoint(step_path(tmp_path, 1)).model
    assert all(torch.equal(began[name], tensor) for name, tensor in other.average.items())
