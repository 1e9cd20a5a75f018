"""Rows a second of the teacher stage: the published recipe, the same at our dtype, ours, and the floor.

    python benchmarks/teacher_throughput.py --text train.txt --vocabulary vocab.txt --size base

All run in turn on the same transcripts, model and threads, several rounds, medians reported. The published
recipe: float32, file order, padded batches, logits at every position, full softmax and sort of the masked
one. The floor: the operations that no exact method can leave out, at the rate that this machine reaches at
the encoder's own matrix shapes in the same rounds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from options import (
    count_option,
    dtype_option,
    json_option,
    quick_option,
    text_option,
    vocabulary_option,
    write_figures,
)
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from pipeline.normaliser import normalise
from teacher_cache.config import CacheConfig
from teacher_cache.passages import Passage
from teacher_cache.teacher.masked_teacher import MaskedTeacher

SIZES = {  # as transformers' BertConfig names them
    "base": {},
    "small": {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    },
}
RECIPE_BATCH = 32  # masked copies, as they come in the file
BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}


def make_teacher(folder: Path, vocabulary: Path, size: str) -> Path:
    """A BERT of that size with seeded random weights: its speed is that of a trained one."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    torch.manual_seed(0)
    tokenizer = BertTokenizerFast(str(vocabulary), do_lower_case=True)
    tokenizer.save_pretrained(folder)
    BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **SIZES[size])).save_pretrained(folder)
    return folder


def read_transcripts(path: Path, count: int, seed: int) -> list[str]:
    """Normalised texts of a `*.trans.txt`-like file, a random sample in file order."""
    lines = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [normalise(line[1]) for line in lines if len(line) == 2]
    chosen = np.random.default_rng(seed).choice(len(texts), min(count, len(texts)), replace=False)
    return [texts[index] for index in sorted(chosen)]


@torch.inference_mode()
def published_recipe(model: Any, tokenizer: Any, texts: Sequence[str]) -> int:
    """Rows scored the way that public code does it."""
    copies, positions = [], []
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        for position in range(1, len(ids) - 1):
            copies.append([*ids[:position], tokenizer.mask_token_id, *ids[position + 1 :]])
            positions.append(position)
    for start in range(0, len(copies), RECIPE_BATCH):
        batch = tokenizer.pad({"input_ids": copies[start : start + RECIPE_BATCH]}, return_tensors="pt")
        logits = model(**batch.to(model.device)).logits
        rows = torch.arange(len(logits), device=model.device)
        at = torch.tensor(positions[start : start + RECIPE_BATCH], device=model.device)
        logits[rows, at].softmax(-1).sort(-1, descending=True)
    return len(copies)


def encoder_operations(config: Any, lengths: Sequence[int]) -> float:
    """Operations of one masked copy of each passage times its rows, projection included, summed.

    lengths : tokens of each passage; all but two of them become a row
    """
    width, inner, vocabulary = config.hidden_size, config.intermediate_size, config.vocab_size
    total = 0.0
    for length in lengths:
        full = length * (4 * width * width + 2 * width * inner) + 2 * length * length * width
        last = length * 2 * width * width + 2 * width * width + 2 * width * inner + 2 * length * width
        head = width * width + width * vocabulary
        total += 2.0 * (length - 2) * ((config.num_hidden_layers - 1) * full + last + head)
    return total


@torch.inference_mode()
def matrix_rate(config: Any, dtype: torch.dtype, device: str, seconds: float) -> float:
    """Operations a second of the layers' matrix products, each with weights of its own."""
    width, inner = config.hidden_size, config.intermediate_size
    shapes = [(width, width)] * 4 + [(inner, width), (width, inner)]
    weights = [
        [torch.randn(shape, device=device).to(dtype) for shape in shapes]
        for _ in range(config.num_hidden_layers)
    ]
    tokens = BATCH_TOKENS[device]
    inputs = {size: torch.randn(tokens, size, device=device).to(dtype) for size in (width, inner)}
    operations = sum(2.0 * tokens * rows * columns for rows, columns in shapes)
    done, started = -1, 0.0
    while done < 0 or time.perf_counter() - started < seconds:
        for layer in weights:
            for weight in layer:
                functional.linear(inputs[weight.shape[1]], weight)
        synchronise(device)
        done += 1
        started = started or time.perf_counter()  # the first round warms up
    return done * len(weights) * operations / (time.perf_counter() - started)


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device != "cpu":
        torch.cuda.synchronize()


def seconds_of(call: Callable[[], Any], device: str) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - started


def measure(folder: Path, texts: Sequence[str], dtype: str, device: str, rounds: int) -> dict[str, Any]:
    """The figures, by the names that the design gives them."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval().to(device)
    same = AutoModelForMaskedLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval().to(device)
    teacher = MaskedTeacher.load(folder, dtype, device)
    encoded = teacher.tokenizer.encode([Passage("", text, "") for text in texts])
    wanted = np.ones(sum(passage.own_length for passage in encoded), dtype=bool)
    cache_config = CacheConfig(dtype=dtype)
    calls: dict[str, Callable[[], Any]] = {
        "published_recipe": lambda: published_recipe(plain, tokenizer, texts),
        "same_dtype": lambda: published_recipe(same, tokenizer, texts),
        "ours": lambda: teacher.score(encoded, wanted, cache_config, BATCH_TOKENS[device]),
    }
    published_recipe(same, tokenizer, texts[:1]), calls["ours"]()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    rates = []
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(seconds_of(call, device))
            if name != "published_recipe":  # right before and right after ours: these machines drift
                rates.append(matrix_rate(plain.config, getattr(torch, dtype), device, seconds=2.0))
    rows = len(wanted)
    rate = statistics.median(rates)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    floor = encoder_operations(plain.config, [len(passage.ids) for passage in encoded]) / rate
    return {
        "rows": rows,
        "rows_per_second": {name: rows / time_taken for name, time_taken in median.items()},
        "ratio_to_published": median["published_recipe"] / median["ours"],
        "ratio_to_same_dtype": median["same_dtype"] / median["ours"],
        "fraction_of_floor": floor / median["ours"],
        "floor_rows_per_second": rows / floor,
        "matrix_flops_per_second": rate,
    }


@click.command()
@text_option
@vocabulary_option
@click.option("--size", type=click.Choice(sorted(SIZES)), default="base", show_default=True)
@dtype_option("bfloat16")
@click.option("--device", type=click.Choice(sorted(BATCH_TOKENS)), default="cpu", show_default=True)
@click.option("--threads", default=0, help="0: as many as PyTorch chooses")
@count_option("transcripts", 64)
@count_option("rounds", 3)
@count_option("seed", 1)
@quick_option("8 transcripts, one round")
@json_option
def main(
    text: Path,
    vocabulary: Path,
    size: str,
    dtype: str,
    device: str,
    threads: int,
    transcripts: int,
    rounds: int,
    seed: int,
    quick: bool,
    json_file: Path | None,
) -> None:
    """Compare the teacher stage with the published recipe and with what the machine allows."""
    if threads:
        torch.set_num_threads(threads)
    texts = read_transcripts(text, 8 if quick else transcripts, seed)
    with tempfile.TemporaryDirectory() as folder:
        teacher = make_teacher(Path(folder), vocabulary, size)
        figures = measure(teacher, texts, dtype, device, 1 if quick else rounds)
    figures |= {"model": f"bert-{size}", "dtype": dtype, "device": device, "threads": torch.get_num_threads()}
    table = Table("", "rows/s", "ours is faster by")
    names = {"published_recipe": "published recipe, float32", "same_dtype": f"the same in {dtype}"}
    for name, shown in names.items():
        ratio = figures["rows_per_second"]["ours"] / figures["rows_per_second"][name]
        table.add_row(shown, f"{figures['rows_per_second'][name]:.1f}", f"{ratio:.1f} x")
    table.add_row(f"ours, {dtype}", f"{figures['rows_per_second']['ours']:.1f}", "")
    floor = f"{figures['floor_rows_per_second']:.1f}"
    table.add_row("floor", floor, f"ours reaches {figures['fraction_of_floor']:.0%} of it")
    console = Console()
    console.print(table)
    console.print(
        f"{figures['rows']:,} rows, bert-{size}, {device}, {figures['threads']} threads, "
        f"{figures['matrix_flops_per_second'] / 1e9:,.0f} GFLOP/s at the encoder's shapes"
    )
    write_figures(json_file, figures)


if __name__ == "__main__":
    main()
