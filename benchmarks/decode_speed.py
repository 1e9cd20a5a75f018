"""Real-time factor and latency of every decoder of a run, alone and in batches; greedy of two runs in turn.

    python benchmarks/decode_speed.py RUN [--against OTHER] [--utterances 32] [--threads 1] [--device cpu]

All decoders read the same utterances of one split, in memory, in every round, so that what the machine does
beside falls on all. Latency and RTF are the wall clock's; "own time" on a CPU is the process' own, which
other programs hardly lengthen. beam_ngram, beam_lm and words are as `bert2ctc tune` left them in the run; one
that it never tuned is named and left out. OTHER, say a student without distillation, takes turns with RUN at
greedy; the ratios of the rounds are given as their median, lowest and highest.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from options import PATH, count_option, json_option, write_figures
from rich.console import Console
from rich.table import Table

from pipeline.console import say
from pipeline.errors import PipelineError
from pipeline.paths import Roots, roots_from
from pipeline.run_record import run_of
from pipeline.stages.fused_decoders import open_tuned
from student.data.dataset import SpeechBatch, SpeechDataset, load_batches
from student.data.manifest import Utterance, read_manifest
from student.decoding.greedy import GreedyDecoder
from student.decoding.interface import Decoder
from student.decoding.names import DECODERS, FUSED, GREEDY
from student.inference.recogniser import Recogniser, load_recogniser
from student.inference.tuning_file import tuning_path
from student.training.device import describe_device
from teacher_cache.common.small_files import is_there

ALONE, BATCHED = "alone", "batched"


@dataclass(frozen=True, slots=True)
class Passed:
    """Seconds of one pass over all utterances.

    wall : of each batch, encoder and decoder
    own, own_decoder : summed, of both and of the decoder; the process' on a CPU, else the wall clock's
    """

    wall: list[float]
    own: float
    own_decoder: float


def passed(recogniser: Recogniser, decoder: Decoder, batches: Sequence[SpeechBatch]) -> Passed:
    """Recognise the batches, one after the other."""
    wall, own, own_decoder = [], 0.0, 0.0
    for batch in batches:
        started = _clocks(recogniser.device)
        output = recogniser.forward(batch.waveforms, batch.sample_lengths)
        heard = _clocks(recogniser.device)
        decoder.decode(output.ctc_logits[max(output.ctc_logits)], output.frame_lengths)
        ended = _clocks(recogniser.device)
        wall.append(ended[0] - started[0])
        own += ended[1] - started[1]
        own_decoder += ended[1] - heard[1]
    return Passed(wall, own, own_decoder)


def _clocks(device: torch.device) -> tuple[float, float]:
    """(wall, own) seconds, once the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    wall = time.perf_counter()
    return wall, time.process_time() if device.type == "cpu" else wall


def decoders_of(recogniser: Recogniser, run_dir: Path) -> dict[str, Decoder]:
    """Every decoder that the run has, by name."""
    found: dict[str, Decoder] = {}
    for name in DECODERS:
        if name == GREEDY:
            found[name] = GreedyDecoder(recogniser.units)
        elif name in FUSED and not is_there(tuning_path(run_dir, name)):
            say(f"{name}: left out, for it was never tuned; see `bert2ctc tune RUN`")
        else:
            found[name] = open_tuned(name, recogniser, run_dir, name, "", None, None, say)
    return found


def batches_from(
    recogniser: Recogniser, utterances: Sequence[Utterance], roots: Roots, size: int
) -> list[SpeechBatch]:
    """The utterances in batches of neighbours in length."""
    dataset = SpeechDataset(
        utterances=utterances,
        unit_ids=[[]] * len(utterances),
        data_root=roots.data,
        sample_rate_hz=recogniser.config.features.sample_rate_hz,
    )
    order = sorted(range(len(utterances)), key=lambda place: utterances[place].seconds)
    keys = [[(0, place) for place in order[first : first + size]] for first in range(0, len(order), size)]
    return list(load_batches(dataset, keys, 0))


def figures_of(rounds: Sequence[Passed], audio_seconds: float) -> dict[str, float]:
    """Medians over the rounds; latency is of one batch, over all batches of all rounds."""
    waits = sorted(seconds for one in rounds for seconds in one.wall)
    return {
        "real_time_factor": statistics.median(sum(one.wall) for one in rounds) / audio_seconds,
        "own_real_time_factor": statistics.median(one.own for one in rounds) / audio_seconds,
        "own_decoder_real_time_factor": statistics.median(one.own_decoder for one in rounds) / audio_seconds,
        "latency_ms": 1000 * statistics.median(waits),
        "latency_95_percent_ms": 1000 * waits[int(0.95 * (len(waits) - 1))],
    }


def measure(run_dir: Path, against: Path | None, roots: Roots, options: dict[str, Any]) -> dict[str, Any]:
    """By way and decoder what `figures_of` gives; of --against the ratios of greedy's time."""
    recogniser = load_recogniser(run_dir, options["device"])
    say(recogniser.description)
    torch.set_num_threads(options["threads"])
    manifest = Path(run_of(run_dir)["prepared"]) / f"{options['split']}.jsonl"
    every = read_manifest(manifest)
    if not every:
        raise PipelineError(f"{manifest}: no utterance to time; name another --split")
    count = min(options["utterances"], len(every))
    utterances = [every[place * len(every) // count] for place in range(count)]
    audio_seconds = sum(utterance.seconds for utterance in utterances)
    decoders = decoders_of(recogniser, run_dir)
    ways = {
        ALONE: batches_from(recogniser, utterances, roots, 1),
        BATCHED: batches_from(recogniser, utterances, roots, options["batch"]),
    }
    members = [(name, recogniser, decoder) for name, decoder in decoders.items()]
    if against:
        other = load_recogniser(against, options["device"])
        say(other.description)
        members.insert(1, ("greedy of --against", other, GreedyDecoder(other.units)))
    rounds: dict[tuple[str, str], list[Passed]] = {}
    for number in range(options["rounds"] + 1):
        for way, batches in ways.items():
            for name, student, decoder in members if number % 2 else reversed(members):
                one = passed(student, decoder, batches)
                if number:  # the first is a warm-up
                    rounds.setdefault((way, name), []).append(one)
    figures: dict[str, Any] = {
        way: {name: figures_of(rounds[way, name], audio_seconds) for name, _, _ in members} for way in ways
    }
    if against:
        figures["ratio"] = {way: _ratio(rounds[way, GREEDY], rounds[way, members[1][0]]) for way in ways}
    return figures | {
        "device": describe_device(recogniser.device),
        "threads": torch.get_num_threads(),
        "utterances": count,
        "audio_seconds": audio_seconds,
        "batch": options["batch"],
        "rounds": options["rounds"],
    }


def _ratio(own: Sequence[Passed], other: Sequence[Passed]) -> dict[str, Any]:
    """Of each round, in own time."""
    ratios = sorted(one.own / two.own for one, two in zip(own, other, strict=True))
    return {"median": statistics.median(ratios), "lowest": ratios[0], "highest": ratios[-1], "all": ratios}


def show(figures: dict[str, Any]) -> None:
    """The tables."""
    console = Console(width=110)
    for way in (ALONE, BATCHED):
        size = 1 if way == ALONE else figures["batch"]
        title = f"{way}: batches of {size}, on {figures['device']}"
        table = Table(title=title)
        for column in ("decoder", "RTF", "RTF, own time", "of it decoder", "latency ms", "95 % ms"):
            table.add_column(column, justify="left" if column == "decoder" else "right")
        for name, row in figures[way].items():
            table.add_row(
                name,
                *(f"{row[key]:.4f}" for key in list(row)[:3]),
                *(f"{row[key]:.1f}" for key in list(row)[3:]),
            )
        console.print(table)
        if "ratio" in figures:
            ratio = figures["ratio"][way]
            console.print(
                f"greedy of RUN takes {ratio['median']:.3f} times as long as greedy of --against "
                f"({ratio['lowest']:.3f} to {ratio['highest']:.3f} in {figures['rounds']} rounds)"
            )


@click.command(context_settings={"show_default": True})
@click.argument("run", type=PATH)
@click.option("--against", type=PATH, metavar="RUN", help="another student, whose greedy takes turns")
@click.option("--split", default="dev")
@count_option("utterances", 32, "evenly spread over the split")
@count_option("batch", 16, "utterances of a batch in the batched way")
@count_option("rounds", 5)
@count_option("threads", 1)
@click.option("--device", default="cpu", help="auto, cpu, cuda or mps")
@click.option("--data", type=PATH, help="the data root")
@json_option
def main(run: Path, against: Path | None, data: Path | None, json_file: Path | None, **options: Any) -> None:
    """See above."""
    figures = measure(run, against, roots_from({"data": data} if data else {}), options)
    show(figures)
    write_figures(json_file, figures)


if __name__ == "__main__":
    main()
