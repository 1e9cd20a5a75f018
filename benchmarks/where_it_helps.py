"""Where a student is better than another: by what the teacher knew of a word, and what around it was heard.

    python benchmarks/where_it_helps.py CONFIG --cache CACHE --ours KD.json --theirs CTC.json --base BASE.json

A teacher can help where it knows the word from its neighbours, and a student can use that only where it
hears the neighbours. Each word of the split's transcripts falls into a row by the teacher's probability of it
(the product over its pieces, each with all others in sight) and by how many of the two words before and the
two behind it BASE has right. Rates are of words not written where they stand, in per cent; the difference,
ours less theirs, has an interval of 95 % over speakers. Runs are files of `bert2ctc runs pack`, such as
docs/results holds; several `--ours` and as many `--theirs` are a seed each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from options import FILE_OR_FOLDER, json_option, write_figures
from rich.console import Console
from rich.table import Table

from pipeline.comparison.differences import paired_interval
from pipeline.comparison.run_facts import read_run
from pipeline.comparison.systems import systems_of
from pipeline.config import load_config
from pipeline.corpus.prepared import sound_preparation
from pipeline.paths import roots_from
from student.data.character_spans import unit_spans
from student.data.manifest import read_manifest
from student.decoding.names import GREEDY
from student.metrics import WordPair
from teacher_cache import store
from teacher_cache.config import CacheConfig
from teacher_cache.passages import passages_of
from teacher_cache.store.inspection import InspectedPassage, inspect_passages

PROBABILITIES = (0.0, 0.001, 0.01, 0.1, 0.5, 1.0)
NEIGHBOURS = 2


def word_probabilities(inspected: InspectedPassage, words: Sequence[str]) -> list[float]:
    """The teacher's probability of each word: the product over its pieces, whatever the tokenizer."""
    pieces, text = [token.piece for token in inspected.tokens], " ".join(words)
    spans = unit_spans(pieces, words, text, whole_words=False)
    if spans is None:
        raise click.ClickException(
            f"{inspected.name}: pieces spell {' '.join(pieces)!r} where the transcript has {text!r}"
        )
    found = np.ones(len(words))
    np.multiply.at(found, spans[:-1, 0], [token.probability for token in inspected.tokens])
    return found.tolist()


def heard_words(pairs: Sequence[WordPair]) -> list[bool]:
    """Of each word of the reference whether it is written where it stands."""
    return [pair.operation == "" for pair in pairs if pair.reference is not None]


def neighbours_heard(heard: Sequence[bool]) -> list[int]:
    """Of each word how many of the two before and the two behind it are right; beyond an end all are."""
    beyond = [True] * NEIGHBOURS
    padded = [*beyond, *heard, *beyond]
    return [sum(padded[at : at + 2 * NEIGHBOURS + 1]) - padded[at + NEIGHBOURS] for at in range(len(heard))]


def stratum(probability: float) -> int:
    """The index of a probability's row; its upper bound belongs to it."""
    return int(np.searchsorted(PROBABILITIES[1:-1], probability, side="left"))


def row_of(
    name: str, chosen: np.ndarray, wrong: np.ndarray, speakers: Sequence[str], sides: tuple[slice, slice]
) -> dict[str, Any]:
    """Words of a row, and how often either side misses them; `wrong`: (runs, W)."""
    if not chosen.any():
        return {"words": name, "number": 0}
    picked = [speaker for speaker, is_in in zip(speakers, chosen, strict=True) if is_in]
    of_ours, of_theirs = (wrong[side][:, chosen] for side in sides)
    bounds = paired_interval(of_ours, of_theirs, np.ones(len(picked)), picked)
    ours, theirs = of_ours.mean(), of_theirs.mean()
    return {
        "words": name, "number": int(chosen.sum()), "ours": float(ours), "theirs": float(theirs),
        "difference": float(ours - theirs), "interval": bounds,
    }  # fmt: skip


def rows(
    probabilities: np.ndarray,
    neighbours: np.ndarray,
    wrong: np.ndarray,
    speakers: Sequence[str],
    sides: tuple[slice, slice],
) -> list[dict[str, Any]]:
    """All words; by the teacher's probability; by neighbours heard; both for what the teacher knows."""
    strata = np.array([stratum(probability) for probability in probabilities])
    known = strata >= len(PROBABILITIES) - 3
    chosen = {"all": np.ones(len(strata), bool)}
    bounds = zip(PROBABILITIES, PROBABILITIES[1:], strict=False)
    chosen |= {f"teacher {low:g} to {high:g}": strata == at for at, (low, high) in enumerate(bounds)}
    for heard in range(2 * NEIGHBOURS + 1):
        chosen[f"{heard} neighbours heard"] = neighbours == heard
    all_heard = neighbours == 2 * NEIGHBOURS
    chosen[f"teacher above {PROBABILITIES[-3]:g}, all neighbours heard"] = known & all_heard
    chosen[f"teacher above {PROBABILITIES[-3]:g}, one missed or more"] = known & ~all_heard
    return [row_of(name, mask, wrong, speakers, sides) for name, mask in chosen.items()]


@click.command()
@click.argument("config")
@click.option("--cache", required=True, help="a name or a fingerprint: the teacher's labels of the split")
@click.option("--split", default="dev", show_default=True)
@click.option("--ours", type=FILE_OR_FOLDER, multiple=True, required=True)
@click.option("--theirs", type=FILE_OR_FOLDER, multiple=True, required=True)
@click.option("--base", type=FILE_OR_FOLDER, required=True, help="who hears the neighbours")
@json_option
def main(
    config: str, cache: str, split: str, ours: tuple[Path, ...], theirs: tuple[Path, ...], base: Path,
    json_file: Path | None,
) -> None:  # fmt: skip
    """Error rates of words by what the teacher knew of them."""
    roots = roots_from({})
    runs = [read_run(path, roots) for path in (*ours, *theirs)]
    test_set, systems = systems_of([(run, GREEDY) for run in runs], split)
    heard_set, (hearing,) = systems_of([(read_run(base, roots), GREEDY)], split)
    if (heard_set.ids, heard_set.references) != (test_set.ids, test_set.references):
        raise click.ClickException(
            f"{base}: evaluated on other utterances than --ours; evaluate both on one split"
        )
    path = store.resolve(roots.cache, cache)
    recipe = store.read_manifest(path).recipe
    prepared = sound_preparation(load_config(config), roots)
    utterances = read_manifest(prepared / f"{split}.jsonl")
    passages = passages_of(
        utterances, CacheConfig(context=recipe.context, context_words=recipe.context_words)
    )
    named = {one.id: passage for one, passage in zip(utterances, passages, strict=True)}
    inspected = {shown.name: shown for shown in inspect_passages(path, named, 1)}
    words_of = [reference.split() for reference in test_set.references]
    probabilities = [
        probability
        for name, words in zip(test_set.ids, words_of, strict=True)
        for probability in word_probabilities(inspected[name], words)
    ]
    neighbours = [count for pairs in hearing.alignments[0] for count in neighbours_heard(heard_words(pairs))]
    blocks = test_set.speakers or test_set.ids
    speakers = [block for block, words in zip(blocks, words_of, strict=True) for _ in words]
    aligned = [of_run for system in systems for of_run in system.alignments]
    wrong = [[not is_right for pairs in of_run for is_right in heard_words(pairs)] for of_run in aligned]
    sides = (slice(0, len(ours)), slice(len(ours), None))
    found = rows(np.array(probabilities), np.array(neighbours), np.array(wrong, float), speakers, sides)
    Console(stderr=True).print(_table(found))
    write_figures(
        json_file,
        {
            "split": split,
            "ours": [run.name for run in runs[: len(ours)]],
            "theirs": [run.name for run in runs[len(ours) :]],
            "rows": found,
        },
    )


def _table(found: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None)
    for column in ("words", "number", "ours %", "theirs %", "points (95 %)"):
        table.add_column(column, justify="left" if column == "words" else "right")
    for row in found:
        if row["number"]:
            low, high = (100 * bound for bound in row["interval"])
            figures = [f"{100 * row[side]:.1f}" for side in ("ours", "theirs")]
            table.add_row(
                row["words"],
                f"{row['number']:,}",
                *figures,
                f"{100 * row['difference']:+.1f} ({low:.1f}, {high:.1f})",
            )
    return table


if __name__ == "__main__":
    main()
