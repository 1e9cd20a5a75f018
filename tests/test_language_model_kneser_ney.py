"""Kneser-Ney: equal to lmplz, to a slow implementation, to a case by hand; what sums to 1 does."""

from __future__ import annotations

import gzip
import itertools
import math
import random
from pathlib import Path

import numpy as np
import pytest
from slow_kneser_ney import SlowKneserNey

from pipeline.errors import PipelineError
from pipeline.language_model.arpa import read_arpa
from pipeline.language_model.kneser_ney import FALLBACK, estimate_ngrams
from pipeline.language_model.ngram_counts import bytes_needed
from pipeline.language_model.ngram_model import NgramModel

REFERENCES = Path(__file__).parent / "lmplz"
TOLERANCE = 1e-5  # of log10


def entries_of(model: NgramModel) -> dict[tuple[str, ...], tuple[float, float]]:
    """log10 of probability and back-off weight by n-gram."""
    found = {}
    for length, order in enumerate(model.orders, 1):
        for ids, log_prob, backoff in zip(
            model.word_ids(length, np.arange(len(order))), order.log_prob, order.backoff, strict=True
        ):
            found[tuple(model.words[word] for word in ids)] = (float(log_prob), float(backoff))
    return found


def random_sentences(seed: int, count: int, num_words: int) -> list[list[str]]:
    """Sentences of which a few words make most, so that every count occurs; some are empty."""
    random_ = random.Random(seed)
    words = [f"w{index}" for index in range(num_words)]
    weights = [1 / (index + 1) for index in range(num_words)]
    return [random_.choices(words, weights, k=random_.randrange(0, 9)) for _ in range(count)]


@pytest.mark.parametrize("reference", sorted(REFERENCES.glob("*.arpa.gz")), ids=lambda path: path.name)
def test_every_entry_is_that_of_lmplz(reference: Path) -> None:
    """How the references were made: tests/lmplz/README.md."""
    name, _, order = reference.name.removesuffix(".arpa.gz").rpartition("-")
    text = gzip.decompress((REFERENCES / f"{name}.txt.gz").read_bytes()).decode()
    estimate = estimate_ngrams([line.split() for line in text.splitlines()], int(order))
    ours, theirs = entries_of(estimate.model), entries_of(read_arpa(reference))
    assert ours.keys() == theirs.keys()
    worst = max(abs(a - b) for gram in ours for a, b in zip(ours[gram], theirs[gram], strict=True))
    assert worst < TOLERANCE


@pytest.mark.parametrize(
    ("seed", "count", "num_words", "order"), [(0, 60, 9, 3), (1, 250, 40, 4), (2, 5, 3, 5)]
)
def test_every_entry_is_that_of_a_slow_implementation(
    seed: int, count: int, num_words: int, order: int
) -> None:
    sentences = random_sentences(seed, count, num_words)
    estimate = estimate_ngrams(sentences, order)
    slow = SlowKneserNey(sentences, order)
    assert [one.amounts for one in estimate.discounts] == [
        pytest.approx(amounts, abs=1e-5) for amounts in slow.discounts[1:]
    ]
    ours = entries_of(estimate.model)
    assert ours.keys() == {gram for counts in slow.counts for gram in counts}
    for gram, (log_prob, backoff) in ours.items():
        assert log_prob == pytest.approx(slow.log10(gram), abs=TOLERANCE), gram
        if len(gram) < order:
            assert backoff == pytest.approx(slow.backoff(gram), abs=TOLERANCE), gram


def test_a_case_by_hand() -> None:
    """`a b` and `a`, bigrams: too little for discounts, so 0.5, 1, 1.5 everywhere.

    Left neighbours: a 1 (<s>), b 1 (a), </s> 2 (b, a). Of 4, the discounts leave (0.5 + 0.5 + 1) / 4 = 0.5
    over, a fourth of it for each of a, b, </s>, <unk>. After `<s>` stands a twice: (2 - 1) / 2, and 1 / 2
    of p(a); after `a`, b and </s> once each: 0.5 / 2, and 0.5 of the shorter.
    """
    estimate = estimate_ngrams([["a", "b"], ["a"]], 2)
    assert [one.amounts for one in estimate.discounts] == [FALLBACK, FALLBACK]
    assert all(one.is_fallback for one in estimate.discounts)
    found = entries_of(estimate.model)
    expected = {("<unk>",): 0.125, ("a",): 0.25, ("b",): 0.25, ("</s>",): 0.375, ("<s>",): 1.0}
    expected |= {("<s>", "a"): 0.5 + 0.5 * 0.25, ("a", "b"): 0.25 + 0.5 * 0.25, ("a", "</s>"): 0.25 + 0.1875}
    expected |= {("b", "</s>"): 0.5 + 0.5 * 0.375}
    assert {gram: 10**log_prob for gram, (log_prob, _) in found.items()} == pytest.approx(expected)
    weights = {gram[0]: 10**backoff for gram, (_, backoff) in found.items() if len(gram) == 1}
    assert weights == pytest.approx({"<unk>": 1.0, "<s>": 0.5, "</s>": 1.0, "a": 0.5, "b": 0.5})


def test_what_may_follow_any_history_sums_to_1() -> None:
    model = estimate_ngrams(random_sentences(3, 200, 12), 3, vocabulary=["w1", "never"]).model
    found = entries_of(model)
    words = [word for word in model.words if word != "<s>"]

    def log10(gram: tuple[str, ...]) -> float:
        if gram in found:
            return found[gram][0]
        return found.get(gram[:-1], (0.0, 0.0))[1] + log10(gram[1:])

    for history in [("<s>",), ("never",), *itertools.product(["<s>", "w0", "w5"], ["w0", "w3", "w11"])]:
        assert sum(10 ** log10((*history, word)) for word in words) == pytest.approx(1.0, abs=1e-5)
    assert found[("never",)][0] == pytest.approx(found[("<unk>",)][0])


def test_the_order_of_sentences_moves_nothing_but_the_last_ngram() -> None:
    sentences = random_sentences(4, 3000, 30)
    first = entries_of(estimate_ngrams(sentences, 3).model)
    random.Random(0).shuffle(sentences)
    second = entries_of(estimate_ngrams(sentences, 3).model)
    assert first.keys() == second.keys()
    assert max(abs(first[gram][0] - second[gram][0]) for gram in first) < 1e-2


@pytest.mark.parametrize("special", ["<s>", "</s>", "<unk>"])
def test_special_words_are_refused(special: str) -> None:
    with pytest.raises(PipelineError, match="which are no words"):
        estimate_ngrams([["a", special, "b"]], 2)


@pytest.mark.parametrize("order", [1, 11])
def test_an_order_out_of_range_and_no_text_are_refused(order: int) -> None:
    with pytest.raises(PipelineError, match="must be 2 to 10"):
        estimate_ngrams([["a"]], order)
    with pytest.raises(PipelineError, match="no sentence"):
        estimate_ngrams([], 3)


def test_memory_grows_with_tokens_and_order() -> None:
    assert bytes_needed(10**6, 4) == 10**6 * (60 + 3 * 28)
    assert bytes_needed(10**6, 3, num_words=10) == 10**6 * 60 + 28 * (100 + 1000)
    assert math.isclose(bytes_needed(2 * 10**6, 3), 2 * bytes_needed(10**6, 3))
