"""How good a cache's labels are: the teacher against the transcripts, and how much of it the top K keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from teacher_cache.common.perplexity import perplexity
from teacher_cache.store.rows import MASS_AT, RowBlock

NUM_WORST = 5


def quality_figures(
    blocks: Iterable[RowBlock],
    lengths: np.ndarray,
    unknown_id: int | None,
    describe: Callable[[int], dict[str, Any]],
) -> dict[str, Any]:
    """A JSON object of figures over all rows, which `blocks` holds in order.

    lengths : (M,), rows of each passage     describe : passage number -> what names it to a person
    accuracy_at : share of rows whose own piece is among the first k, keyed by k; "1" is top-1 accuracy
    pseudo_perplexity : exp of the mean of -log p of the own piece (Salazar et al. 2020, section 2.2)
    mass_at : mean probability of the first k     unknown_rows : rows whose own piece is the unknown one
    worst : the passages of the highest pseudo-perplexity
    """
    gold_logprob: list[np.ndarray] = []
    hits: np.ndarray | float = 0.0
    mass: np.ndarray | float = 0.0
    unknown = 0
    for rows in blocks:
        is_gold = rows.top_id == rows.gold_id[:, None]
        hits = hits + is_gold.sum(axis=0)
        mass = mass + np.exp(rows.top_logprob.astype(np.float64)).sum(axis=0)
        unknown += int((rows.gold_id == unknown_id).sum()) if unknown_id is not None else 0
        gold_logprob.append(rows.gold_logprob.astype(np.float64))
    logprob = np.concatenate(gold_logprob)
    count = len(logprob)
    accuracy, kept = np.cumsum(hits) / count, np.cumsum(mass) / count
    columns = [k for k in MASS_AT if k <= len(kept)]
    means = np.add.reduceat(logprob, np.cumsum(lengths) - lengths) / lengths
    worst = np.argsort(means, kind="stable")[:NUM_WORST]
    return {
        "rows": count,
        "accuracy_at": {str(k): round(float(accuracy[k - 1]), 6) for k in columns},
        "pseudo_perplexity": _perplexity(float(logprob.mean())),
        "mass_at": {str(k): round(float(kept[k - 1]), 6) for k in columns},
        "unknown_rows": unknown,
        "worst": [
            {**describe(int(number)), "pseudo_perplexity": _perplexity(float(means[number]))}
            for number in worst
        ],
    }


def quality_lines(figures: dict[str, Any]) -> list[str]:
    """The figures for a person, one fact a line."""
    at = " ".join(f"{'K = ' + k:>8}" for k in figures["mass_at"])
    lines = [
        f"pseudo-perplexity {figures['pseudo_perplexity']:.2f} over {figures['rows']:,} rows",
        f"                 {at}",
        "own piece within " + " ".join(f"{100 * share:7.2f}%" for share in figures["accuracy_at"].values()),
        "mass kept        " + " ".join(f"{100 * share:7.2f}%" for share in figures["mass_at"].values()),
    ]
    if figures["unknown_rows"]:
        lines.append(f"{figures['unknown_rows']:,} rows label a piece that the teacher does not know")
    lines += [
        f"hard for the teacher: {worst['utterance']} (pseudo-perplexity {worst['pseudo_perplexity']:,.0f}) "
        f"{worst['text']}"
        for worst in figures["worst"]
    ]
    return lines


def _perplexity(mean_logprob: float) -> float:
    return round(perplexity(-mean_logprob), 4)
