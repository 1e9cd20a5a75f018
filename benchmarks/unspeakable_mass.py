"""How much of a teacher's mass lies on pieces that nobody says, and what each policy of a cache makes of it.

    python benchmarks/unspeakable_mass.py --teacher FOLDER --text dev.txt [--context-words 50]

Every piece of the transcripts is masked in turn, as for a cache. Told are the shares of pieces of other
characters than a-z and apostrophe, at each transcript's last piece and at the others, as the teacher reads
them and with a full stop behind the passage; and what `ranked_pieces = "speakable"` leaves to be learnt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from options import count_option, json_option, quick_option, teacher_option, text_option, write_figures
from rich.console import Console
from rich.table import Table
from teacher_precision import logits_of

from pipeline.normaliser import normalise
from teacher_cache.config import PASSAGE_ENDS, CacheConfig
from teacher_cache.passages import Passage, passages_of
from teacher_cache.teacher.masked_teacher import MaskedTeacher

TOP = 64
BATCH_TOKENS = 4096
COLUMNS = {
    "mass_inside": "unspeakable, inside %",
    "mass_at_the_end": "at the last piece %",
    "perplexity_all": "pseudo-perplexity, all",
    "perplexity_speakable": "speakable",
    "kept_all": f"kept by {TOP} %, all",
    "kept_speakable": "speakable",
}


@dataclass(frozen=True)
class Entry:
    """A transcript of LibriSpeech, whose id is speaker-chapter-number."""

    id: str
    text: str

    @property
    def chapter(self) -> str:
        """Speaker and chapter."""
        return self.id.rpartition("-")[0]

    @property
    def position(self) -> int:
        """Within the chapter."""
        return int(self.id.rpartition("-")[2])


def read_entries(path: Path) -> list[Entry]:
    """Every transcript of a `*.trans.txt`-like file, normalised."""
    lines = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Entry(line[0], normalise(line[1])) for line in lines if len(line) == 2]


def sampled_passages(entries: Sequence[Entry], context_words: int, count: int, seed: int) -> list[Passage]:
    """Some passages; which ones does not depend on the context."""
    context = "chapter" if context_words else "utterance"
    passages = passages_of(entries, CacheConfig(context=context, context_words=context_words))
    chosen = np.random.default_rng(seed).choice(len(passages), min(count, len(passages)), replace=False)
    return [passages[index] for index in sorted(chosen)]


def rows_of(teacher: MaskedTeacher, passages: Sequence[Passage], end: str) -> np.ndarray:
    """Float64 (rows, 5) of all passages: mass that cannot be said, whether the piece is its passage's last,
    the own piece's log-probability, and what the TOP likeliest have, of all pieces and of speakable ones.
    """
    tokenizer = teacher.tokenizer
    impossible = torch.from_numpy(tokenizer.is_impossible("speakable"))
    is_special = torch.from_numpy(tokenizer.is_special)
    found = []
    for encoded in tokenizer.encode(passages, end):
        logprob = logits_of(teacher, encoded, BATCH_TOKENS).double().log_softmax(-1)
        unspoken = logprob[:, impossible].exp().sum(-1)
        own = logprob.gather(1, torch.from_numpy(encoded.own_ids)[:, None])[:, 0]
        is_last = torch.zeros(len(own), dtype=torch.double)
        is_last[-1] = 1
        kept = [
            logprob.masked_fill(mask, -torch.inf).topk(TOP, -1).values.exp().sum(-1)
            for mask in (is_special, is_special | impossible)
        ]
        found.append(torch.stack([unspoken, is_last, own, *kept], 1))
    return torch.cat(found).numpy()


def summary(rows: np.ndarray) -> dict[str, float]:
    """The figures of one way to read the passages."""
    unspoken, is_last, own, kept_all, kept_spoken = rows.T
    left = 1 - unspoken
    return {
        "rows": len(rows),
        "mass_inside": float(unspoken[is_last == 0].mean()),
        "mass_at_the_end": float(unspoken[is_last == 1].mean()),
        "most_inside": float((unspoken[is_last == 0] > 0.5).mean()),
        "most_at_the_end": float((unspoken[is_last == 1] > 0.5).mean()),
        "perplexity_all": math.exp(-own.mean()),
        "perplexity_speakable": math.exp(-(own - np.log(left)).mean()),
        "kept_all": float(kept_all.mean()),
        "kept_speakable": float((kept_spoken / left).mean()),
    }


@click.command()
@teacher_option
@text_option
@count_option("context-words", 0, "of the chapter's neighbours, as [cache] context_words")
@count_option("transcripts", 100)
@count_option("seed", 1)
@quick_option("4 transcripts")
@json_option
def main(
    teacher: Path,
    text: Path,
    context_words: int,
    transcripts: int,
    seed: int,
    quick: bool,
    json_file: Path | None,
) -> None:
    """Weigh what nobody says, with each end of a passage."""
    loaded = MaskedTeacher.load(teacher)
    passages = sampled_passages(read_entries(text), context_words, 4 if quick else transcripts, seed)
    figures: dict[str, Any] = {end: summary(rows_of(loaded, passages, end)) for end in PASSAGE_ENDS}
    table = Table("passage_end", *COLUMNS.values())
    for end, found in figures.items():
        shown = [
            f"{found[name]:.1f}" if name.startswith("perplexity") else f"{100 * found[name]:.2f}"
            for name in COLUMNS
        ]
        table.add_row(end, *shown)
    console = Console()
    console.print(table)
    console.print(
        f"{len(passages)} transcripts, {figures['none']['rows']:,} rows, context {context_words} words"
    )
    write_figures(json_file, {"context_words": context_words, "transcripts": len(passages), **figures})


if __name__ == "__main__":
    main()
