"""Does `trainer.compile` pay for a config's student here? Milliseconds of a step, eager and compiled.

    python benchmarks/compiled_steps.py --config librispeech-100 --member ctc --member interaed_kd --json FILE

The host launches a small model's kernels more slowly than a GPU runs them; compiled blocks launch fewer.
What is compiled stays in PyTorch's own cache on this machine: the next process begins within seconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from train_step_work import MEMBERS, batch_for, make_batches, member_config, optimiser_step, synchronise

from pipeline.config import load_config
from student.config import StudentConfig
from student.data.batch import TrainingBatch
from student.loss.objective import compute_objective
from student.model.student_model import Bert2CTC
from student.training.compilation import compile_or_say_why_not
from student.training.device import choose_device, choose_precision, describe_device

NUM_UNITS, NUM_PIECES, WARM_UP_ROUNDS = 33, 5000, 2  # over every batch: a new shape may compile anew


def milliseconds(step: Callable[[TrainingBatch], None], batches: list[TrainingBatch], count: int) -> float:
    """Of a step, after some that are not counted."""
    device = batches[0].features.device
    for batch in WARM_UP_ROUNDS * batches:
        step(batch)
    synchronise(device)
    started = time.perf_counter()
    for number in range(count):
        step(batches[number % len(batches)])
    synchronise(device)
    return 1000 * (time.perf_counter() - started) / count


def measure(config: StudentConfig, device: torch.device, count: int) -> dict[str, float]:
    """eager and compiled milliseconds of a step, and the seconds until the compiled one was ready."""
    dtype = choose_precision(config.trainer.precision, device).dtype
    made = make_batches(config, 8, NUM_UNITS, NUM_PIECES, device, seed=1)
    batches = [batch_for(batch, config) for _, batch in made]
    torch.manual_seed(0)
    model = Bert2CTC(config, NUM_UNITS, NUM_PIECES if config.objective.uses_branch else None)
    model.to(device).train()
    step = optimiser_step(
        model, lambda batch: compute_objective(model, batch, config, len(batch.features)).loss, config, dtype
    )
    figures = {"eager": milliseconds(step, batches, count)}
    started = time.perf_counter()
    print(compile_or_say_why_not(model, device), flush=True)
    step(batches[0])
    synchronise(device)
    figures["seconds_to_compile"] = time.perf_counter() - started
    return figures | {"compiled": milliseconds(step, batches, count)}


@click.command()
@click.option("--config", default="librispeech-100", show_default=True)
@click.option("--set", "overrides", multiple=True, help="section.key=value")
@click.option("--member", "members", multiple=True, type=click.Choice(list(MEMBERS)), default=["ctc"])
@click.option("--device", default="auto", show_default=True)
@click.option("--steps", default=30, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="rewritten after each member")
def main(
    config: str,
    overrides: tuple[str, ...],
    members: list[str],
    device: str,
    steps: int,
    json_file: Path | None,
) -> None:
    """Compare eager and compiled steps."""
    torch.set_num_threads(1)
    chosen = choose_device(device)
    figures: dict[str, dict[str, float]] = {}
    table = Table("", "eager ms", "compiled ms", "x", "s to compile")
    for name in members:
        student = member_config(load_config(config, overrides).student, name)
        figures[name] = own = measure(student, chosen, steps)
        table.add_row(
            name, *(f"{x:.1f}" for x in (own["eager"], own["compiled"], own["eager"] / own["compiled"])),
            f"{own['seconds_to_compile']:.0f}",
        )  # fmt: skip
        if json_file:
            whole = {"milliseconds": figures, "config": config, "device": describe_device(chosen)}
            partial = json_file.with_suffix(".partial")
            partial.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
            partial.replace(json_file)  # others read it meanwhile
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
