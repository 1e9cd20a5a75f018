"""The laws of rows: a teacher's rows hold them, in full and in every view; a broken one is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from synthetic_cache import SyntheticTeacher, passages_named, plan_of

from teacher_cache.config import CacheConfig
from teacher_cache.store.laws import fault_of, stored_fault
from teacher_cache.store.layout import Layout
from teacher_cache.store.rows import RowBlock, encode
from teacher_cache.store.view import View, view_columns

TEMPERATURES = (0.5, 1.0, 2.0)
NUM_SPECIAL = 2


@cache
def rows_of(top_k: int, sharpness: float, seed: int) -> tuple[RowBlock, Layout, np.ndarray]:
    teacher = SyntheticTeacher(sharpness=sharpness, seed=seed, num_special=NUM_SPECIAL)
    config = CacheConfig(top_k=top_k, temperatures=TEMPERATURES)
    plan = plan_of(passages_named(12, seed), teacher, config)
    return plan.rows, plan.layout, np.arange(plan.layout.vocab_size) < NUM_SPECIAL


@given(
    top_k=st.sampled_from([1, 5, 16, 24, 64]),
    sharpness=st.sampled_from([0.0, 0.3, 3.0, 40.0]),
    seed=st.integers(0, 3),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_whatever_a_teacher_says_holds_the_laws_in_full_and_in_every_view(
    top_k: int, sharpness: float, seed: int, data: st.DataObject
) -> None:
    rows, layout, is_special = rows_of(top_k, sharpness, seed)
    assert fault_of(rows, layout, is_special) == ""
    stored = encode(rows, layout)
    view = View(
        data.draw(st.integers(1, top_k)),
        data.draw(st.sampled_from(TEMPERATURES)),
        data.draw(st.sampled_from(["bucket", "renormalise"])),
    )
    seen = {
        name: stored[name][:, :columns] if columns else stored[name]
        for name, columns in view_columns(layout, view).items()
    }
    assert stored_fault(seen, layout, is_special, (view.temperature,)) == ""


def test_a_special_piece_may_stand_there_however_likely_it_is() -> None:
    """An unknown word's piece is never ranked: its probability lies above all candidates, in the tail."""
    logprobs = np.log(np.array([[0.6, 0.3, 0.08, 0.02]]))
    rows = RowBlock(
        gold_id=np.array([0]),
        gold_logprob=logprobs[:, 0].astype(np.float32),
        top_id=np.array([[1, 2]]),
        top_logprob=logprobs[:, 1:3].astype(np.float32),
        lognorm=np.zeros((1, 1), np.float32),
        tail_logprob=np.log(np.array([[0.62]], np.float32)),
    )
    layout = Layout(
        num_rows=1, num_passages=1, top_k=2, temperatures=(1.0,), vocab_size=4, rows_per_shard=1024
    )
    is_special = np.array([True, False, False, False])
    assert fault_of(rows, layout, is_special) == ""
    assert "contradicts its candidates" in fault_of(rows, layout, np.zeros(4, bool))
    above_the_tail = replace(rows, gold_logprob=np.log(np.array([0.63], np.float32)))
    assert "contradicts its candidates" in fault_of(above_the_tail, layout, is_special)


def put(
    name: str, place: Callable[[RowBlock, int], tuple], value: Callable[[RowBlock, int], float]
) -> Callable:
    def broken(rows: RowBlock, row: int) -> RowBlock:
        values = getattr(rows, name).copy()
        values[place(rows, row)] = value(rows, row)
        return replace(rows, **{name: values})

    return broken


# Law -> rows that break it in one row, and what is said of them.
BROKEN: dict[str, tuple[Callable[[RowBlock, int], RowBlock], str]] = {
    "no number": (put("gold_logprob", lambda r, i: (i,), lambda r, i: np.nan), "gold_logprob holds nan"),
    "no normaliser": (put("lognorm", lambda r, i: (i, 2), lambda r, i: -np.inf), "lognorm holds -inf"),
    "above one": (put("tail_logprob", lambda r, i: (i, 0), lambda r, i: 0.5), "a probability above 1"),
    "outside": (put("top_id", lambda r, i: (i, 7), lambda r, i: 90), "outside a vocabulary of 90"),
    "negative": (put("gold_id", lambda r, i: (i,), lambda r, i: -1), "outside a vocabulary of 90"),
    "special": (put("top_id", lambda r, i: (i, 7), lambda r, i: 1), "ranks a special piece, 1, in row {row}"),
    "repeated": (
        put("top_id", lambda r, i: (i, 7), lambda r, i: r.top_id[i, 3]),
        "repeats a piece in row {row}",
    ),
    "rising": (
        put("top_logprob", lambda r, i: (i, 7), lambda r, i: r.top_logprob[i, 6] + 0.01),
        "rises along row {row}",
    ),
    "another gold piece": (
        put("gold_id", lambda r, i: (i,), lambda r, i: r.top_id[i, 5 * (r.gold_id[i] == r.top_id[i, 0])]),
        "of row {row} contradicts its candidates",
    ),
    "gold too likely": (
        put("gold_logprob", lambda r, i: (i,), lambda r, i: min(r.top_logprob[i, 0] + 0.01, 0)),
        "of row {row} contradicts its candidates",
    ),
    "gold unlikely": (
        lambda r, i: replace(
            r, gold_id=np.where(np.arange(len(r)) == i, r.top_id[:, 0], r.gold_id), gold_logprob=np.where(
                np.arange(len(r)) == i, r.top_logprob[:, 0] - 0.01, r.gold_logprob
            ).astype(np.float32)
        ),
        "of row {row} contradicts its candidates",
    ),
    "too much in all": (
        put("tail_logprob", lambda r, i: (i, 2), lambda r, i: -0.001),
        "at temperature 2 in row {row}",
    ),
    "too little in all": (
        put("lognorm", lambda r, i: (i, 2), lambda r, i: r.lognorm[i, 2] + 3),
        "at temperature 2 in row {row}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("law", BROKEN)
@given(data=st.data(), seed=st.integers(0, 3))
@settings(max_examples=8, deadline=None)
def test_a_broken_law_is_told_with_its_row(law: str, data: st.DataObject, seed: int) -> None:
    rows, layout, is_special = rows_of(24, 3.0, seed)
    row = data.draw(st.integers(0, len(rows) - 1))
    assume(not is_special[rows.gold_id[row]])  # it may be likelier than all candidates
    broken, said = BROKEN[law]
    found = fault_of(broken(rows, row), layout, is_special)
    assert said.format(row=row) in found
