"""How well a word's confidence tells wrong words from right ones: that of `bert2ctc transcribe` and others.

    python benchmarks/word_confidence.py RUN [--split dev] [--device auto] [--json FILE]

The words are greedy CTC's; one is wrong where its alignment with the reference has another word, or none.
The area under the ROC curve is the share of pairs of a wrong and a right word in which the wrong one is the
less sure; a tie counts half. Intervals hold 95 % of a bootstrap over speakers (chapters or utterances where
the manifest knows no speakers), the same draws for all; the last two columns are less the first row's area,
paired. A measure is of frames, then the least or the mean over the frames that say the word's units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from options import PATH, json_option, write_figures
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pipeline.console import say
from pipeline.error_rates.intervals import bootstrap_ratios, interval
from pipeline.error_rates.word_errors import blocks_of
from pipeline.errors import PipelineError
from pipeline.paths import Roots, roots_from
from pipeline.run_record import run_of
from student.data.manifest import read_manifest
from student.data.units import Units
from student.decoding.greedy import greedy_ctc_decode
from student.inference.confidence import frame_confidence
from student.inference.recogniser import load_recogniser
from student.inference.tuning import hear
from student.inference.word_times import word_spans
from student.metrics import align_words
from student.training.device import describe_device

LEAST, MEAN = "minimum", "mean"


def gibbs_confidence(log_probs: Tensor) -> Tensor:
    """(T,) in 0..1: one less the entropy of log-probabilities (T, V) over its largest value."""
    return 1 - torch.special.entr(log_probs.double().exp()).sum(-1) / np.log(log_probs.shape[-1])


def largest_posterior(log_probs: Tensor) -> Tensor:
    """(T,) of log-probabilities (T, V)."""
    return log_probs.double().amax(-1).exp()


OF_FRAMES: Mapping[str, Callable[[Tensor], Tensor]] = {  # the first is `bert2ctc transcribe`'s
    "Tsallis, 1/3": frame_confidence,
    **{
        f"Tsallis, {exponent:g}": partial(frame_confidence, exponent=exponent)
        for exponent in (0.1, 0.25, 0.5, 2)
    },
    "Gibbs": gibbs_confidence,
    "largest posterior": largest_posterior,
}
MEASURES = [(name, pooled) for pooled in (LEAST, MEAN) for name in OF_FRAMES]


def heard_words(logits: Tensor, units: Units) -> list[tuple[str, Tensor]]:
    """The greedy words of CTC's logits (T, V), each with its confidences by MEASURES."""
    log_probs, found = logits.log_softmax(-1), []
    (unit_ids,) = greedy_ctc_decode(logits.unsqueeze(0), torch.tensor([len(logits)]))
    by_frame = torch.stack([of_frames(log_probs).double() for of_frames in OF_FRAMES.values()])
    for text, spans in word_spans(log_probs, unit_ids, units):
        said = torch.cat([by_frame[:, start:stop] for start, stop in spans], dim=1)
        found.append((text, torch.cat([said.amin(1), said.mean(1)])))
    return found


def wrong_words(references: Sequence[str], heard: Sequence[Sequence[str]]) -> np.ndarray:
    """Bool (W,): of all heard words in their order whether each is a substitution or an insertion."""
    aligned = align_words(references, [" ".join(words) for words in heard])
    heard_pairs = [pair for pairs in aligned for pair in pairs if pair.hypothesis is not None]
    return np.array([pair.operation != "" for pair in heard_pairs], dtype=bool)


def shares_in_order(confidences: np.ndarray, is_wrong: np.ndarray) -> np.ndarray:
    """Float64 (W,): the share of the other kind's words with which each is in order, the wrong one less sure.

    Their mean over the wrong words is the area under the ROC curve, and so is that over the right ones.
    """
    right_below, wrong_below = (
        _shares_below(np.sort(confidences[kind]), confidences) for kind in (~is_wrong, is_wrong)
    )
    return np.where(is_wrong, 1 - right_below, wrong_below)


def _shares_below(ascending: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For each value the share of the ascending ones that are smaller, with half of those that are equal."""
    ranks = [np.searchsorted(ascending, values, side) for side in ("left", "right")]
    return (ranks[0] + ranks[1]) / (2 * len(ascending))


def areas(
    confidences: np.ndarray, is_wrong: np.ndarray, owners: np.ndarray, blocks: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The area under the ROC curve of each measure, (M,), and in resamples of the blocks, (draws, M).

    confidences : (M, W)     owners : int64 (W,), the utterance of each word     blocks : (U,) of utterances
    A resample moves the area by what it moves the mean share of the wrong words and that of the right ones,
    which is exact to the first order (DeLong, DeLong and Clarke-Pearson 1988; in clusters Obuchowski 1997).
    """
    shares = np.stack([shares_in_order(row, is_wrong) for row in confidences])
    kinds = (is_wrong, ~is_wrong)
    sums = [np.stack([np.bincount(owners, row * kind, len(blocks)) for row in shares]) for kind in kinds]
    counts = [np.broadcast_to(np.bincount(owners, kind, len(blocks)), sums[0].shape) for kind in kinds]
    drawn = bootstrap_ratios(np.concatenate(sums), np.concatenate(counts), blocks)
    of_wrong, of_right = np.split(drawn, 2, axis=1)
    area = shares[:, is_wrong].mean(1)
    return area, of_wrong + of_right - area


def measured(run: Path, split: str, device: str, roots: Roots) -> dict[str, Any]:
    """All that the table shows, JSON-ready. Raises PipelineError where no word, or every word, is wrong."""
    recogniser = load_recogniser(run, device)
    say(recogniser.description)
    utterances = read_manifest(Path(run_of(run)["prepared"]) / f"{split}.jsonl")
    heard = hear(recogniser, utterances, roots.data, split)
    words = [heard_words(logits, recogniser.units) for logits in heard.logits]
    is_wrong = wrong_words(heard.references, [[text for text, _ in own] for own in words])
    if is_wrong.all() or not is_wrong.any():
        raise PipelineError(
            f"{run}: {is_wrong.sum():,} of {len(is_wrong):,} words of {split} are wrong, so nothing is to be "
            "told apart; name another --split or run"
        )
    confidences = torch.stack([sure for own in words for _, sure in own], dim=1).numpy()
    owners, blocks = np.repeat(np.arange(len(words)), list(map(len, words))), blocks_of(utterances)
    area, drawn = areas(confidences, is_wrong, owners, blocks)
    rows = [
        {
            "of_frames": name,
            "over_word": pooled,
            "area": float(area[row]),
            "interval": interval(drawn[:, row].clip(0, 1)),
            "difference": float(area[row] - area[0]),
            "difference_interval": interval(drawn[:, row] - drawn[:, 0]),
        }
        for row, (name, pooled) in enumerate(MEASURES)
    ]
    return {
        "run": str(run),
        "split": split,
        "utterances": len(utterances),
        "blocks": len(set(blocks)),
        "words": len(is_wrong),
        "wrong_words": int(is_wrong.sum()),
        "device": describe_device(recogniser.device),
        "rows": rows,
    }


def table_of(figures: Mapping[str, Any]) -> Table:
    """The figures for people."""
    table = Table(
        title=f"{figures['wrong_words']:,} of {figures['words']:,} words of {figures['split']} are wrong, "
        f"{figures['utterances']:,} utterances in {figures['blocks']:,} blocks"
    )
    for column in ("of frames", "over the word", "area", "95 %", "less the first's", "95 %"):
        table.add_column(column, justify="left" if "the word" in column or "frames" in column else "right")
    for row in figures["rows"]:
        spans = ["{:.4f} to {:.4f}".format(*row[key]) for key in ("interval", "difference_interval")]
        area, difference = f"{row['area']:.4f}", f"{row['difference']:+.4f}"
        table.add_row(row["of_frames"], row["over_word"], area, spans[0], difference, spans[1])
    return table


@click.command(context_settings={"show_default": True})
@click.argument("run", type=PATH)
@click.option("--split", default="dev")
@click.option("--device", default="auto", help="auto, cpu, cuda or mps")
@click.option("--data", type=PATH, help="the data root; else BERT2CTC_DATA")
@json_option
def main(run: Path, split: str, device: str, data: Path | None, json_file: Path | None) -> None:
    """See above."""
    figures = measured(run, split, device, roots_from({"data": data} if data else {}))
    Console(width=110).print(table_of(figures))
    write_figures(json_file, figures)


if __name__ == "__main__":
    main()
