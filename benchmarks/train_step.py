"""Speed and memory of training steps: the family, a teacher in the loop, torchaudio's Conformer, the floor.

    python benchmarks/train_step.py --config librispeech-mini --threads 1

All run in turn on the same batches of noise with the durations of LibriSpeech, several rounds; medians are
reported. The floor: the operations of a plain CTC step that no exact method leaves out, at the rate that this
machine reaches at the blocks' own matrix shapes, forward and backward, in the same rounds. A step begins with
features and ends with updated weights; what computing the features adds is reported beside it.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import psutil
import torch
from rich.console import Console
from rich.table import Table
from train_step_work import (
    FRAMES_PER_SECOND,
    MEMBERS,
    RIVALS,
    make_batches,
    matrix_rate,
    member_config,
    member_step,
    necessary_operations,
    online_teacher,
    synchronise,
)

from pipeline.config import load_config
from student.config import StudentConfig
from student.data.batch import TrainingBatch
from student.frames import frames_after_convolutions
from student.loss.objective import attended_frames
from student.model.features import LogMel
from student.training.compilation import compile_or_say_why_not
from student.training.device import choose_device, choose_precision, describe_device
from student.training.memory import high_water_megabytes
from teacher_cache.common.sizes import MEGABYTE

NUM_UNITS = 300


def measure(config: StudentConfig, options: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """The figures, by the names that the design gives them."""
    device = choose_device(options["device"])
    dtype = choose_precision(options["precision"], device).dtype
    sizes = (NUM_UNITS, options["pieces"])
    batches = make_batches(config, options["batches"], *sizes, device, seed=1)
    names = [*MEMBERS, *RIVALS]
    models, steps, peak = {}, {}, {}
    for name in names:
        models[name], steps[name] = member_step(name, config, sizes, device, dtype)
        if options["compile"] and name in MEMBERS:
            say(f"{name}: {compile_or_say_why_not(models[name], device)}")
        before = _allocated(device)
        for _, batch in batches:
            steps[name](batch)
        peak[name] = _allocated(device, at_most=True) - before
        say(f"{name}: warm")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    rates, teacher_seconds = [], []
    subsampling = config.conformer.subsampling
    rows = sum(int(frames_after_convolutions(batch.frame_lengths, subsampling).sum()) for _, batch in batches)
    with tempfile.TemporaryDirectory() as folder:
        score = online_teacher(Path(folder), device, dtype)
        for number in range(options["rounds"]):
            for name in names:
                seconds[name].append(_time(lambda: [steps[name](b) for _, b in batches], device))  # noqa: B023
            rates.append(matrix_rate(config, rows // len(batches), device, dtype))
            if number < options["teacher_rounds"]:
                taken = _time(lambda: score(batches[number % len(batches)][1]), device)  # noqa: B023
                teacher_seconds.append(taken * len(batches))
            say(f"round {number + 1} of {options['rounds']}")
    if device.type == "cpu":
        peak = {name: _peak_in_a_process(name, config, options) for name in names}
    audio = sum(heard for heard, _ in batches)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    operations = sum(necessary_operations(config, NUM_UNITS, batch) for _, batch in batches)
    rate, best_rival = statistics.median(rates), min(median[name] for name in RIVALS)
    speeds, online_ratio = {name: audio / taken for name, taken in median.items()}, None
    if teacher_seconds:
        online = median["interaed_kd"] + statistics.median(teacher_seconds)
        speeds["interaed_kd_online_teacher"] = audio / online
        online_ratio = online / median["interaed_kd"]
    return {
        "audio_seconds_per_second": speeds,
        "ratio_interaed_kd_to_interaed_hard": _ratio(seconds, "interaed_kd", "interaed_hard"),
        "ratio_interaed_kd_to_ctc": _ratio(seconds, "interaed_kd", "ctc"),
        "ratio_online_teacher_to_cache": online_ratio,
        "ratio_windowed_kd_to_interaed_kd": _ratio(seconds, "windowed_kd", "interaed_kd"),
        "ratio_to_torchaudio_conformer": best_rival / median["ctc"],
        "features_to_ctc": _feature_seconds(config, batches, device) / median["ctc"],
        "alignment_to_windowed_kd": _alignment_seconds(config, batches, device) / median["windowed_kd"],
        "fraction_of_floor": operations / rate / median["ctc"],
        "matrix_flops_per_second": rate,
        "peak_megabytes": peak,
        "parameters": {name: sum(p.numel() for p in models[name].parameters()) for name in names},
        "padding_fraction": 1 - audio * 100 / sum(b.features[..., 0].numel() for _, b in batches),
        "device": describe_device(device),
        "dtype": str(dtype).removeprefix("torch."),
        "micro_batch_seconds": config.trainer.micro_batch_seconds,
    }


def _feature_seconds(
    config: StudentConfig, batches: list[tuple[float, TrainingBatch]], device: torch.device
) -> float:
    """Time of the log-mel features of all batches, from waveforms of their lengths."""
    log_mel, total = LogMel(config.features).to(device), 0.0
    for _, batch in batches:
        samples = batch.frame_lengths * config.features.sample_rate_hz // FRAMES_PER_SECOND
        waveforms = 0.1 * torch.randn(len(samples), int(samples.max()), device=device)
        total += _warm_time(partial(log_mel, waveforms, samples), device)
    return total


def _alignment_seconds(
    config: StudentConfig, batches: list[tuple[float, TrainingBatch]], device: torch.device
) -> float:
    """Time of all batches' alignments of units, and of the windows that they give a windowed decoder."""
    decoder, total = member_config(config, "windowed_kd").decoder, 0.0
    for _, batch in batches:
        lengths = frames_after_convolutions(batch.frame_lengths, config.conformer.subsampling)
        logits = torch.randn(len(lengths), int(lengths.max()), NUM_UNITS, device=device)
        total += _warm_time(partial(attended_frames, logits, lengths, batch, decoder), device)
    return total


def _ratio(seconds: dict[str, list[float]], name: str, other: str) -> float:
    """The median over rounds of two members' times in the same round."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[other], strict=True))


def _warm_time(call: Callable[[], Any], device: torch.device) -> float:
    call()
    return _time(call, device)


def _time(call: Callable[[], Any], device: torch.device) -> float:
    synchronise(device)
    started = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - started


def _allocated(device: torch.device, at_most: bool = False) -> float:
    """Megabytes of tensors on a GPU: now, or the most since the last call that asked for now."""
    if device.type != "cuda":
        return 0.0
    if at_most:
        return torch.cuda.max_memory_allocated(device) / MEGABYTE
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device) / MEGABYTE


def _peak_in_a_process(name: str, config: StudentConfig, options: dict[str, Any]) -> float:
    """What a fresh process's memory grows by during a member's steps, in megabytes."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth, (name, config, options))


def _growth(name: str, config: StudentConfig, options: dict[str, Any]) -> float:
    torch.set_num_threads(options["threads"] or torch.get_num_threads())
    device = torch.device("cpu")
    dtype = choose_precision(options["precision"], device).dtype
    sizes = (NUM_UNITS, options["pieces"])
    _, step = member_step(name, config, sizes, device, dtype)
    batches = make_batches(config, options["batches"], *sizes, device, seed=1)
    before = psutil.Process().memory_info().rss / MEGABYTE
    for _, batch in batches:
        step(batch)
    return high_water_megabytes() - before


def show(figures: dict[str, Any]) -> None:
    """The figures as a table and four lines."""
    table = Table("", "x real time", "step time over ctc", "peak MB", "M weights")
    speeds, online = figures["audio_seconds_per_second"], figures["ratio_online_teacher_to_cache"]
    for name, speed in speeds.items():
        peak, weights = figures["peak_megabytes"].get(name), figures["parameters"].get(name)
        table.add_row(
            name,
            f"{speed:.1f}",
            f"{speeds['ctc'] / speed:.2f}",
            "" if peak is None else f"{peak:,.0f}",
            "" if weights is None else f"{weights / 1e6:.2f}",
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"interaed_kd takes {figures['ratio_interaed_kd_to_interaed_hard']:.2f} x interaed_hard, "
        f"{figures['ratio_interaed_kd_to_ctc']:.2f} x ctc; windowed_kd "
        f"{figures['ratio_windowed_kd_to_interaed_kd']:.2f} x interaed_kd; a BERT-base in the loop "
        f"{'not timed' if online is None else f'{online:.1f} x the cache'}\n"
        f"plain CTC runs {figures['ratio_to_torchaudio_conformer']:.2f} x as fast as torchaudio's Conformer, "
        f"at {figures['fraction_of_floor']:.0%} of {figures['matrix_flops_per_second'] / 1e9:,.0f} GFLOP/s; "
        f"features would add {figures['features_to_ctc']:.1%}; alignment is "
        f"{figures['alignment_to_windowed_kd']:.1%} of windowed_kd\n"
        f"{figures['device']}, {figures['dtype']}, micro-batches of {figures['micro_batch_seconds']:g} s, "
        f"{figures['padding_fraction']:.1%} padding"
    )


@click.command()
@click.option("--config", default="librispeech-mini", show_default=True, help="whose student")
@click.option("--set", "overrides", multiple=True, help="section.key=value")
@click.option("--device", default="auto", show_default=True)
@click.option("--precision", default="auto", show_default=True)
@click.option("--threads", default=0, help="0: as many as PyTorch chooses")
@click.option("--batches", default=4, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option(
    "--teacher-rounds", default=1, show_default=True, help="of the BERT in the loop, which is slow; 0: none"
)
@click.option("--pieces", default=5000, show_default=True, help="outputs of the decoders")
@click.option("--compile", is_flag=True, help="our blocks by torch.compile")
@click.option("--quick", is_flag=True, help="one batch, one round")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="write the figures there")
def main(config: str, overrides: tuple[str, ...], json_file: Path | None, **options: Any) -> None:
    """Compare the family's members with each other, with torchaudio, and with what the machine allows."""
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    if options.pop("quick"):
        options |= {"batches": 1, "rounds": 1}
    student = load_config(config, overrides).student
    figures = measure(student, options, lambda line: print(line, file=sys.stderr, flush=True))
    figures |= {"config": config, "threads": torch.get_num_threads(), "pieces": options["pieces"]}
    show(figures)
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
