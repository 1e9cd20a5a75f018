"""A small teacher that knows full stops: what bert-base-uncased is for, where that cannot be had.

    python benchmarks/punctuated_teacher.py --encoder MINILM --text books.txt --out FOLDER

A BERT encoder without a masked-LM head (MiniLM's, with bert-base-uncased's vocabulary) gets one and is
adapted by this project's own masked-LM training to books whose punctuation stays. `bert2ctc teacher train`
takes punctuation out, for what it trains shall know what is spoken; a ready-made BERT was not trained so.
"""

from __future__ import annotations

import lzma
import tempfile
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import click
import torch
from options import FILE_OR_FOLDER, PATH, count_option, json_option, quick_option, write_figures

from teacher_cache.config import TeacherConfig, TeacherTrainingConfig
from teacher_cache.teacher_training.request import TeacherTrainingRequest
from teacher_cache.teacher_training.train import train_teacher

SEED = 1


class NeverRaised(Exception):
    """What is unspeakable: nothing is, where punctuation may stay."""


def with_punctuation(text: str) -> str:
    """Lower-case text with single spaces, and every character that was there."""
    return " ".join(text.lower().split())


def with_a_head(encoder: Path, folder: Path) -> Path:
    """The folder of a masked language model of that encoder; the head's weights are seeded noise."""
    from transformers import AutoTokenizer, BertForMaskedLM

    torch.manual_seed(SEED)
    model = BertForMaskedLM.from_pretrained(encoder, local_files_only=True, use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(encoder, local_files_only=True)
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@click.command()
@click.option("--encoder", type=FILE_OR_FOLDER, required=True, help="a Hugging Face folder of a BertModel")
@click.option("--text", type=FILE_OR_FOLDER, required=True, help="a paragraph a line, punctuated")
@click.option("--out", type=PATH, required=True, help="the teacher's folder")
@count_option("steps", 600)
@count_option("batch", 16, "sentences a step")
@count_option("every", 20, "of so many paragraphs one is read")
@quick_option("3 steps")
@json_option
def main(
    encoder: Path,
    text: Path,
    out: Path,
    steps: int,
    batch: int,
    every: int,
    quick: bool,
    json_file: Path | None,
) -> None:
    """Give the encoder a head and adapt both to punctuated text."""
    config = TeacherTrainingConfig(
        text=(text.name,), max_words=30, max_steps=3 if quick else steps, batch_size=batch,
        learning_rate=3e-4, dropout=0.0, held_out_fraction=0.05, save_every_steps=100, seed=SEED,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        read = Path(folder) / "paragraphs.txt"
        with (lzma.open if text.suffix == ".xz" else open)(text, "rt", encoding="utf-8") as lines:
            read.write_text("".join(islice(lines, 0, None, every)), encoding="utf-8")
        base = with_a_head(encoder, Path(folder) / "base")
        result = train_teacher(
            TeacherTrainingRequest(
                config=config,
                teacher=TeacherConfig(name="punctuated", model=str(base)),
                text_paths=(read,),
                transcripts=[],
                normalise=with_punctuation,
                unspeakable=NeverRaised,
                normaliser={"name": "lower case, punctuation kept"},
                output=out,
                scratch=Path(folder) / "scratch",
            )
        )
    settings = {"folder": out.name, "steps": config.max_steps, "batch": batch, "every": every}
    figures = {**asdict(result), **settings}
    click.echo(
        f"masked accuracy {100 * result.before.masked_accuracy:.1f} % before, "
        f"{100 * result.after.masked_accuracy:.1f} % after; perplexity {result.after.perplexity:.1f}; "
        f"{result.seconds:.0f} s"
    )
    write_figures(json_file, figures)


if __name__ == "__main__":
    main()
