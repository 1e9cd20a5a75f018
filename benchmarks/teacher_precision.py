"""What a teacher's compute precision changes: KL(float32 || bfloat16) in nats a row, and the ranks it moves.

    python benchmarks/teacher_precision.py --teacher FOLDER --text train.txt

Every piece of the transcripts is masked in turn, and the encoder, last layer and head that score a cache give
its logits over the whole vocabulary. The control is the float32 teacher against itself, one copy at a time
instead of a full batch: what another order of the sums changes, at equal precision.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from options import count_option, json_option, quick_option, teacher_option, text_option, write_figures
from rich.console import Console
from rich.table import Table
from teacher_throughput import BATCH_TOKENS, read_transcripts
from torch import Tensor

from teacher_cache.passages import Passage
from teacher_cache.teacher.masked_teacher import MaskedTeacher
from teacher_cache.teacher.tokenizer import EncodedPassage

TOP = 16
NAMES = {"bfloat16": "bfloat16, same batches", "control": "float32, one copy a batch"}


@torch.inference_mode()
def logits_of(teacher: MaskedTeacher, passage: EncodedPassage, batch_tokens: int) -> Tensor:
    """Float32 (U, V), at each piece of the passage while it is masked."""
    position = torch.arange(passage.own_start, passage.own_start + passage.own_length, device=teacher.device)
    copies = torch.from_numpy(passage.ids).to(teacher.device).repeat(len(position), 1)
    copies[torch.arange(len(position), device=teacher.device), position] = teacher.tokenizer.mask_id
    size = max(1, batch_tokens // copies.shape[1])
    logits = []
    for batch, masked in zip(copies.split(size), position.split(size), strict=True):
        row = torch.arange(len(batch), device=teacher.device)
        logits.append(teacher.head(teacher.last_layer(teacher.encoder(batch), row, masked).float()))
    return torch.cat(logits)


def compared(exact: Tensor, other: Tensor, is_special: Tensor) -> np.ndarray:
    """Float64 (U, 3): KL(exact || other) over all V pieces, whether the first candidate is the same, and the
    share of the first sixteen that is.

    exact, other : float32 (U, V), logits     is_special : bool (V,), never a candidate
    """
    wanted, found = exact.double().log_softmax(-1), other.double().log_softmax(-1)
    divergence = (wanted.exp() * (wanted - found)).sum(-1)
    best, others = (
        logprobs.masked_fill(is_special, -torch.inf).topk(TOP).indices for logprobs in (wanted, found)
    )
    shared = (best[:, :, None] == others[:, None, :]).any(-1).double().mean(-1)
    is_same = (best[:, 0] == others[:, 0]).double()
    return torch.stack([divergence, is_same, shared], 1).cpu().numpy()


def summary(rows: np.ndarray) -> dict[str, float]:
    """The figures of one comparison over all rows (n, 3)."""
    divergence, is_same, shared = rows.T
    return {
        "mean": float(divergence.mean()),
        "median": float(np.median(divergence)),
        "percentile_99": float(np.percentile(divergence, 99)),
        "max": float(divergence.max()),
        "top_1_agreement": float(is_same.mean()),
        f"top_{TOP}_overlap": float(shared.mean()),
    }


def measure(folder: Path, texts: list[str], device: str) -> dict[str, dict[str, float]]:
    """Figures of bfloat16 and of the control, by name, and the number of rows."""
    exact, half = (MaskedTeacher.load(folder, dtype, device) for dtype in ("float32", "bfloat16"))
    is_special = torch.from_numpy(exact.tokenizer.is_special).to(exact.device)
    found: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    for passage in exact.tokenizer.encode([Passage("", text, "") for text in texts]):
        tokens = BATCH_TOKENS[device]
        logits = logits_of(exact, passage, tokens)
        others = {
            "bfloat16": logits_of(half, passage, tokens),
            "control": logits_of(exact, passage, 1),
        }
        for name, other in others.items():
            found[name].append(compared(logits, other, is_special))
    return {
        name: {"rows": sum(map(len, rows)), **summary(np.concatenate(rows))} for name, rows in found.items()
    }


@click.command()
@teacher_option
@text_option
@click.option("--device", type=click.Choice(sorted(BATCH_TOKENS)), default="cpu", show_default=True)
@count_option("transcripts", 200)
@count_option("seed", 1)
@quick_option("8 transcripts")
@json_option
def main(
    teacher: Path,
    text: Path,
    device: str,
    transcripts: int,
    seed: int,
    quick: bool,
    json_file: Path | None,
) -> None:
    """Compare a bfloat16 teacher, and other batch shapes, with the float32 teacher."""
    figures = measure(teacher, read_transcripts(text, 8 if quick else transcripts, seed), device)
    columns = ("mean", "median", "99th percentile", "max")
    table = Table("against float32", *columns, "same first, %", f"same of {TOP}, %")
    for name, found in figures.items():
        divergence = [f"{found[key]:.1e}" for key in ("mean", "median", "percentile_99", "max")]
        ranks = [f"{100 * found[key]:.2f}" for key in ("top_1_agreement", f"top_{TOP}_overlap")]
        table.add_row(NAMES[name], *divergence, *ranks)
    console = Console()
    console.print(table)
    console.print(
        f"KL in nats a row, {figures['control']['rows']:,} rows, {device}, {torch.get_num_threads()} threads"
    )
    write_figures(json_file, figures)


if __name__ == "__main__":
    main()
