"""Quality figures equal what a person would count by hand, row by row."""

from __future__ import annotations

import numpy as np
import pytest

from teacher_cache.build.quality import quality_figures, quality_lines
from teacher_cache.store.rows import RowBlock

LENGTHS = np.array([1, 3, 2])


def random_rows(count: int = 6, top_k: int = 5, seed: int = 0) -> RowBlock:
    random = np.random.default_rng(seed)
    probabilities = -np.sort(-random.dirichlet(np.ones(12), size=count), axis=1)
    top_id = np.argsort(random.random((count, 12)), axis=1)
    gold = random.integers(0, 12, size=count)
    gold_logprob = np.log(probabilities[top_id == gold[:, None]])
    logprobs = np.log(probabilities[:, :top_k]).astype(np.float32)
    zeros = np.zeros((count, 1), np.float32)
    return RowBlock(gold, gold_logprob.astype(np.float32), top_id[:, :top_k], logprobs, zeros, zeros)


def figures_of(rows: RowBlock, cuts: tuple[int, ...] = (), unknown_id: int | None = None) -> dict:
    blocks = [rows.take(slice(*ends)) for ends in zip((0, *cuts), (*cuts, len(rows)), strict=True)]
    return quality_figures(blocks, LENGTHS, unknown_id, lambda index: {"utterance": f"u{index}", "text": "t"})


def test_figures_equal_a_count_by_hand() -> None:
    rows = random_rows()
    figures = figures_of(rows, unknown_id=int(rows.gold_id[0]))
    for k in (1, 4):
        hits = [gold in top[:k] for gold, top in zip(rows.gold_id, rows.top_id, strict=True)]
        assert figures["accuracy_at"][str(k)] == pytest.approx(np.mean(hits), abs=1e-6)
        mass = np.exp(rows.top_logprob[:, :k].astype(np.float64)).sum(axis=1).mean()
        assert figures["mass_at"][str(k)] == pytest.approx(mass, abs=1e-6)
    assert set(figures["mass_at"]) == {"1", "4"}  # K = 5 says nothing of 8 and more
    assert figures["pseudo_perplexity"] == pytest.approx(np.exp(-rows.gold_logprob.mean()), rel=1e-4)
    assert figures["unknown_rows"] == (rows.gold_id == rows.gold_id[0]).sum()


def test_shard_edges_change_no_figure() -> None:
    rows = random_rows()
    assert figures_of(rows, cuts=(2, 3)) == figures_of(rows)


def test_the_worst_utterances_come_first_each_with_its_own_perplexity() -> None:
    rows = random_rows(seed=3)
    worst = figures_of(rows)["worst"]
    per_passage = [np.exp(-part.mean()) for part in np.split(rows.gold_logprob, [1, 4])]
    assert [entry["utterance"] for entry in worst] == [f"u{index}" for index in np.argsort(per_passage)[::-1]]
    np.testing.assert_allclose(
        [entry["pseudo_perplexity"] for entry in worst], sorted(per_passage, reverse=True), rtol=1e-4
    )


def test_an_impossible_piece_is_a_figure_and_no_overflow() -> None:
    rows = random_rows()
    rows.gold_logprob[0] = -np.inf
    assert figures_of(rows)["worst"][0]["utterance"] == "u0"


def test_lines_name_the_figures() -> None:
    rows = random_rows()
    text = "\n".join(quality_lines(figures_of(rows, unknown_id=int(rows.gold_id[0]))))
    for part in ("pseudo-perplexity", "over 6 rows", "K = 1", "K = 4", "mass kept", "does not know", "u0"):
        assert part in text
