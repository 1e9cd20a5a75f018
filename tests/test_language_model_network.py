"""The network: scored step by step as whole; rows know no neighbours; training goes on and is repeatable."""

from __future__ import annotations

import math
import os
import random
from pathlib import Path

import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.language_model.network_scorer import NetworkScorer, open_network
from pipeline.language_model.network_training import (
    make_network,
    network_batch,
    network_perplexity,
    token_table,
    train_network,
)
from pipeline.language_model.settings import LanguageModelConfig

CPU = torch.device("cpu")
UNITS = 7
TINY = LanguageModelConfig(
    num_layers=2, hidden_dim=16, num_heads=2, max_positions=12, max_steps=6, batch_size=4, save_every_steps=3,
    learning_rate=5e-3,
)  # fmt: skip


def whole_scores(model: torch.nn.Module, units: list[int]) -> torch.Tensor:
    """Log-probs (V,) after a beginning, by one call without a cache."""
    ids = torch.tensor([[0, *units]])
    positions = torch.arange(ids.shape[1]).clamp(max=TINY.max_positions - 1)[None]
    with torch.no_grad():
        return model(input_ids=ids, position_ids=positions).logits[0, -1].log_softmax(-1)


def test_step_by_step_is_as_whole_whatever_rows_are_taken() -> None:
    model = make_network(TINY, UNITS).eval()
    scorer, draw = NetworkScorer(model, "0" * 64), random.Random(0)
    rows: list[list[int]] = [[] for _ in range(6)]
    state = scorer.initial(len(rows), CPU)
    for step in range(15):  # beyond the positions, too
        found = scorer.scores(state)
        for row, units in enumerate(rows):
            expected = whole_scores(model, units)
            assert torch.allclose(found.log_probs[row, 1:], expected[1:], atol=1e-5), (step, units)
            assert float(found.end_log_probs[row]) == pytest.approx(float(expected[0]), abs=1e-5)
        total = found.log_probs.exp().sum(1) + found.end_log_probs.exp()
        assert total.tolist() == pytest.approx([1.0] * len(rows), abs=1e-5)
        assert (found.log_probs[:, 0] == -math.inf).all()
        picked = [draw.randrange(len(rows)) for _ in rows]
        units_now = [draw.choice([0, *range(1, UNITS)]) for _ in rows]
        state = scorer.advance(scorer.select(state, torch.tensor(picked)), torch.tensor(units_now))
        rows = [[*rows[row], *([unit] if unit else [])] for row, unit in zip(picked, units_now, strict=True)]
    assert max(map(len, rows)) > 8


def test_a_state_stays_as_it_was_and_two_may_grow_from_it() -> None:
    model = make_network(TINY, UNITS).eval()
    scorer = NetworkScorer(model, "0" * 64)
    state = scorer.advance(scorer.initial(2, CPU), torch.tensor([1, 2]))
    one = scorer.advance(state, torch.tensor([3, 0]))
    other = scorer.advance(state, torch.tensor([4, 5]))
    for grown, units in ((one, ([1, 3], [2])), (other, ([1, 4], [2, 5])), (state, ([1], [2]))):
        for row, beginning in enumerate(units):
            expected = whole_scores(model, beginning)[1:]
            assert torch.allclose(scorer.scores(grown).log_probs[row, 1:], expected, atol=1e-5)
    assert scorer.advance(state, torch.tensor([0, 0])) is state


def test_a_batch_asks_for_what_is_behind_and_nothing_of_padding() -> None:
    table = token_table([[3, 4], [5], list(range(1, 7)) * 3], max_positions=12)
    batch = network_batch([table[0], table[1]])
    assert batch["input_ids"].tolist() == [[0, 3, 4], [0, 5, 0]]
    assert batch["labels"].tolist() == [[3, 4, 0], [5, 0, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert len(table[2]) == 13 and table[2][-1] != 0  # cut, and no end is taught where none was


def sentences(count: int) -> list[list[int]]:
    draw = random.Random(0)
    return [[1, 2, 3, draw.randrange(1, UNITS)] for _ in range(count)]


def test_training_learns_and_a_killed_one_goes_on_to_equal_weights(tmp_path: Path) -> None:
    table = token_table(sentences(30), TINY.max_positions)
    before = network_perplexity(make_network(TINY, UNITS), table, 120)
    whole = train_network(table, TINY, UNITS, tmp_path / "a", "cpu")
    after = network_perplexity(whole.model, table, 120)
    assert before is not None and after is not None and after.perplexity < before.perplexity
    assert after.tokens == 30 * 5
    assert after.nats_per_word == pytest.approx(math.log(after.perplexity) * 150 / 120)
    assert whole.resumed_step == 0
    (tmp_path / "a" / "checkpoints" / "checkpoint-6" / "trainer_state.json").unlink()
    again = train_network(table, TINY, UNITS, tmp_path / "a", "cpu")
    assert again.resumed_step == 3
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_folder_that_holds_no_network_of_these_units_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="holds no network"):
        open_network(tmp_path, UNITS, "0" * 64)
    make_network(TINY, UNITS).save_pretrained(tmp_path)
    assert open_network(tmp_path, UNITS, "0" * 64).num_units == UNITS
    with pytest.raises(PipelineError, match="has 7 units with the blank, the student 9"):
        open_network(tmp_path, 9, "0" * 64)
    (tmp_path / "generation_config.json").unlink()
    os.mkfifo(tmp_path / "generation_config.json")
    with pytest.raises(PipelineError, match="generation_config.json is a pipe.*`bert2ctc lm train`"):
        open_network(tmp_path, UNITS, "0" * 64)
    assert network_perplexity(make_network(TINY, UNITS), token_table([], 12), 0) is None
