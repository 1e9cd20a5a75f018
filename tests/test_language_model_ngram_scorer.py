"""The n-gram scorer: every token's score is the ARPA's, in whatever order; rows know no neighbours."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError
from pipeline.language_model.arpa import read_arpa
from pipeline.language_model.arpa_writer import write_arpa
from pipeline.language_model.kneser_ney import estimate_ngrams
from pipeline.language_model.ngram_model import NgramModel
from pipeline.language_model.ngram_scorer import NgramScorer

CPU = torch.device("cpu")
PIECES = ["", "<unk>", "▁a", "b", "▁c", "d", "▁e", "f"]


def unit_model(order: int, seed: int = 0) -> NgramModel:
    draw = random.Random(seed)
    sentences = [draw.choices(PIECES[2:7], [8, 4, 2, 1, 1], k=draw.randrange(1, 9)) for _ in range(150)]
    return estimate_ngrams(sentences, order, PIECES[2:]).model  # "f" never occurs


class Walk:
    """An ARPA text walked by its definition: the longest n-gram that is there, else back off."""

    def __init__(self, path: Path) -> None:
        self.entries: dict[tuple[str, ...], tuple[float, float]] = {}
        self.order = 0
        for line in path.read_text(encoding="utf-8").splitlines():
            if "\t" in line:
                log_prob, words, *backoff = line.split("\t")
                gram = tuple(words.split(" "))
                self.entries[gram] = (float(log_prob), float(backoff[0]) if backoff else 0.0)
                self.order = max(self.order, len(gram))

    def log10(self, history: tuple[str, ...], word: str) -> float:
        history = history[-(self.order - 1) :] if self.order > 1 else ()
        if (*history, word) in self.entries:
            return self.entries[*history, word][0]
        assert history, word
        return self.entries.get(history, (0.0, 0.0))[1] + self.log10(history[1:], word)


def shuffled(model: NgramModel, path: Path, seed: int) -> None:
    """The model as an ARPA file whose words and n-grams stand in a random order."""
    write_arpa(model, path)
    draw, lines = random.Random(seed), []
    for section in path.read_text(encoding="utf-8").split("\n\n"):
        head, *body = section.splitlines()
        if head.endswith("-grams:"):
            draw.shuffle(body)
        lines.append("\n".join([head, *body]))
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize(("order", "seed"), [(1, 0), (2, 1), (3, 2), (5, 3)])
def test_every_score_is_the_arpas_whatever_the_order_of_its_words(
    order: int, seed: int, tmp_path: Path
) -> None:
    path = tmp_path / "units.arpa"
    if order == 1:
        full = unit_model(2)
        model = NgramModel(full.words, full.orders[:1])
    else:
        model = unit_model(order)
    shuffled(model, path, seed)
    walk, draw = Walk(path), random.Random(seed)
    order_of_pieces = draw.sample(PIECES[1:], len(PIECES) - 1)
    pieces = ["", *order_of_pieces]
    scorer = NgramScorer(read_arpa(path), pieces, "0" * 64)
    assert scorer.num_units == len(pieces)
    rows = [[] for _ in range(12)]
    state = scorer.initial(len(rows), CPU)
    for _ in range(8):
        scores = scorer.scores(state)
        for row, units in enumerate(rows):
            history = ("<s>", *(pieces[unit] for unit in units))
            expected = [walk.log10(history, piece) * math.log(10) for piece in pieces[1:]]
            assert scores.log_probs[row, 1:].tolist() == pytest.approx(expected, abs=1e-5)
            ending = walk.log10(history, "</s>") * math.log(10)
            assert float(scores.end_log_probs[row]) == pytest.approx(ending, abs=1e-5)
        total = scores.log_probs.exp().sum(1) + scores.end_log_probs.exp()
        assert total.tolist() == pytest.approx([1.0] * len(rows), abs=1e-4)
        assert (scores.log_probs[:, 0] == -math.inf).all()
        picked = [draw.randrange(len(rows)) for _ in rows]
        units = [draw.choice([0, *range(1, len(pieces))]) for _ in rows]
        state = scorer.advance(scorer.select(state, torch.tensor(picked)), torch.tensor(units))
        rows = [[*rows[row], *([unit] if unit else [])] for row, unit in zip(picked, units, strict=True)]


def test_states_stay_as_they_were_and_rows_know_no_neighbours() -> None:
    scorer = NgramScorer(unit_model(4), PIECES, "0" * 64)
    state = scorer.initial(3, CPU)
    before = [part.clone() for part in state]
    grown = scorer.advance(state, torch.tensor([2, 0, 5]))
    assert all(torch.equal(part, kept) for part, kept in zip(state, before, strict=True))
    assert torch.equal(grown.log_probs[1], state.log_probs[1])
    alone = scorer.advance(scorer.initial(1, CPU), torch.tensor([5]))
    assert torch.equal(alone.log_probs[0], grown.log_probs[2])
    assert scorer.advance(state, torch.tensor([0, 0, 0])) is state


def test_it_scores_as_kenlm_does(tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm", reason="KenLM's Python module is not there")
    path = tmp_path / "units.arpa"
    shuffled(unit_model(4), path, 9)
    reference = kenlm.Model(str(path))
    scorer = NgramScorer(read_arpa(path), PIECES, "0" * 64)
    draw = random.Random(1)
    for _ in range(30):
        units = [draw.randrange(2, len(PIECES)) for _ in range(draw.randrange(9))]
        state, total = scorer.initial(1, CPU), 0.0
        for unit in units:
            total += float(scorer.scores(state).log_probs[0, unit])
            state = scorer.advance(state, torch.tensor([unit]))
        total += float(scorer.scores(state).end_log_probs[0])
        sentence = " ".join(PIECES[unit] for unit in units)
        assert total == pytest.approx(reference.score(sentence) * math.log(10), abs=1e-4)


def test_a_model_of_other_units_is_refused_in_one_line() -> None:
    for pieces in (PIECES[:-1], [*PIECES, "g"], ["", "<unk>", *"xyz"]):
        with pytest.raises(PipelineError, match="of other units") as caught:
            NgramScorer(unit_model(3), pieces, "0" * 64)
        assert "\n" not in str(caught.value)
    without = unit_model(2)
    words = tuple("strange" if word == "</s>" else word for word in without.words)
    with pytest.raises(PipelineError, match="lacks </s>"):
        NgramScorer(NgramModel(words, without.orders), PIECES, "0" * 64)


def test_an_unknown_piece_is_the_models_unknown_word() -> None:
    model = unit_model(3)
    scorer = NgramScorer(model, PIECES, "0" * 64)
    unknown = float(model.orders[0].log_prob[model.words.index("<unk>")])
    weight = float(model.orders[0].backoff[model.words.index("<s>")])
    found = float(scorer.scores(scorer.initial(1, CPU)).log_probs[0, 1])
    assert found == pytest.approx((unknown + weight) * math.log(10), abs=1e-5)
    assert np.isfinite(found)
