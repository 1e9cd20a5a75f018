"""Search over words: every word scored as its ARPA file says, whatever the order; another library agrees."""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path

import pytest
import torch
from fakes import WORDS, sentences
from toy_arpa import LN_10, ArpaByHand, write_arpa

from student.data.units import Units, train_units
from student.decoding.weights import FusionWeights
from student.decoding.words import WordsDecoder, WordSearchSettings
from student.errors import StudentError

WEIGHTS = FusionWeights(language=0.8, insertion=0.6)
TEXTS = sentences(150, seed=4, max_words=6)
VOCABULARY = sorted(set(" ".join(TEXTS).split()))


@pytest.fixture(scope="module", params=["char", "unigram"])
def units(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Units:
    path = tmp_path_factory.mktemp("units") / "units.model"
    return train_units(TEXTS, path, 28 if request.param == "char" else 60, request.param)[0]


@pytest.fixture(scope="module")
def arpa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_arpa(tmp_path_factory.mktemp("arpa") / "words.arpa", [text.split() for text in TEXTS])


def logits_of(
    units: Units, text: str, sharpness: float = 12.0, seed: int = 0, longest: int = 2
) -> torch.Tensor:
    """(T, V) that say the text: each unit for one to `longest` frames, with blanks between."""
    choice = random.Random(seed)
    path = [0]
    for unit in units.encode(text):
        path += [unit] * choice.randint(1, longest) + [0] * choice.randint(1, 2)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(path), units.size, generator=generator)
    return noise + sharpness * torch.nn.functional.one_hot(torch.tensor(path), units.size)


def decoder(
    units: Units, arpa: Path, words: list[str] = VOCABULARY, weights: FusionWeights = WEIGHTS
) -> WordsDecoder:
    return WordsDecoder(units=units, arpa=arpa, words=words, weights=weights)


def decoded(made: WordsDecoder, *rows: torch.Tensor):
    lengths = torch.tensor([len(row) for row in rows])
    return made.decode(torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True), lengths)


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_every_words_score_is_the_files_whatever_the_order(
    units: Units, arpa: Path, tmp_path: Path, seed: int | None
) -> None:
    """The trap: a library that numbers words by an unordered map hands scores to other words."""
    words = list(VOCABULARY)
    if seed is not None:
        arpa = write_arpa(tmp_path / "shuffled.arpa", [text.split() for text in TEXTS], seed=seed)
        random.Random(seed).shuffle(words)
    by_hand = ArpaByHand(arpa)
    made = decoder(units, arpa, words)
    texts = [*VOCABULARY, *TEXTS[:20]]
    for text, (best, *_) in zip(texts, decoded(made, *(logits_of(units, t) for t in texts)), strict=True):
        assert best.text == text
        assert best.language == pytest.approx(by_hand.sentence(text.split()), abs=2e-3)
        whole = best.acoustic + 0.8 * best.language + 0.6 * len(text.split())
        assert best.score == pytest.approx(whole, abs=1e-4)


def test_the_n_gram_decides_between_words_that_sound_alike(units: Units, arpa: Path) -> None:
    """Halfway between two words, the likelier one by the file is read; without a weight the louder one."""
    by_hand = ArpaByHand(arpa)
    pairs = [pair for pair in product(("red", "sea", "old"), ("see", "rides", "sea")) if pair[0] != pair[1]]
    for one, other in pairs:
        first, second = logits_of(units, one), logits_of(units, other)
        size = min(len(first), len(second))
        mixed = torch.cat([(first[:size] + second[:size]) / 2, first[size:], second[size:]])
        made = decoder(units, arpa, weights=FusionWeights(language=1.0))
        readings = decoded(made, mixed)[0]
        assert max(readings, key=lambda r: r.score) == readings[0]
        for reading in readings:
            if reading.text and set(reading.text.split()) <= set(VOCABULARY):
                assert reading.language == pytest.approx(by_hand.sentence(reading.text.split()), abs=2e-3)


def test_a_word_outside_the_vocabulary_costs_ten_orders_of_magnitude(units: Units, arpa: Path) -> None:
    made = decoder(units, arpa, [word for word in VOCABULARY if word != "ship"])
    best = decoded(made, logits_of(units, "ship", sharpness=60.0))[0][0]
    assert best.text == "ship"
    expected = ArpaByHand(arpa).sentence(["ship"]) - 10 * LN_10
    assert best.language == pytest.approx(expected, abs=2e-3)


def test_silence_padding_and_neighbours_change_nothing(units: Units, arpa: Path) -> None:
    made = decoder(units, arpa)
    rows = [logits_of(units, text, 5.0, seed) for seed, text in enumerate(TEXTS[:4])]
    together = decoded(made, *rows, torch.zeros(0, units.size))
    for row, expected in zip(rows, together, strict=False):
        assert decoded(made, row)[0] == expected
    assert [reading.text for reading in together[4]] == [""]
    assert all(len(readings) <= WordSearchSettings().hypotheses for readings in together)


def test_flashlight_reads_and_scores_the_same(units: Units, arpa: Path, tmp_path: Path) -> None:
    """Another library's search, where it can be exact: no word may end in a unit of two frames."""
    pytest.importorskip("flashlight.lib.text", reason="flashlight-text has no wheel for this Python")
    from torchaudio.models.decoder import ctc_decoder

    spelled = {word: " ".join(units.pieces[unit] for unit in units.encode(word)) for word in VOCABULARY}
    lexicon, names = tmp_path / "lexicon.txt", tmp_path / "names.txt"
    lexicon.write_text("".join(f"{word}\t{ids}\n" for word, ids in spelled.items()), encoding="utf-8")
    # without it words are numbered in the order of a map
    names.write_text("\n".join([*VOCABULARY, "<unk>"]) + "\n", encoding="utf-8")
    other = ctc_decoder(
        lexicon=str(lexicon),
        tokens=["<blank>", *units.pieces[1:]],
        lm=str(arpa),
        lm_dict=str(names),
        beam_size=100,
        beam_size_token=min(30, units.size),
        beam_threshold=100,
        lm_weight=WEIGHTS.language * LN_10,  # flashlight keeps KenLM's base 10
        word_score=WEIGHTS.insertion,
        log_add=False,  # with it, silence and blank being one, each blank between words counts twice
        blank_token="<blank>",
        sil_token="<blank>",
        unk_word="<unk>",
    )
    made = decoder(units, arpa)
    rows = [logits_of(units, text, 12.0, seed, longest=1) for seed, text in enumerate(TEXTS[:25])]
    for row, (ours, *_) in zip(rows, decoded(made, *rows), strict=True):
        theirs = other(row.log_softmax(-1)[None])[0][0]
        assert ours.text == " ".join(theirs.words)
        assert ours.score == pytest.approx(theirs.score, abs=0.3)


def test_what_cannot_be_used_is_refused(units: Units, arpa: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.arpa").write_text("no n-grams here\n", encoding="utf-8")
    for path in (tmp_path / "broken.arpa", tmp_path / "absent.arpa"):
        with pytest.raises(StudentError, match=r"KenLM cannot read it.*ARPA file"):
            decoder(units, path)
    with pytest.raises(StudentError, match="none of its 2 words.*'SHIP'.*normalised"):
        decoder(units, arpa, ["THE", "SHIP"])
    with pytest.raises(StudentError, match="no label prior"):
        decoder(units, arpa, weights=FusionWeights(language=1.0, prior=0.1))
    with pytest.raises(StudentError, match="beam 0"):
        WordSearchSettings(beam=0)


def test_the_toy_file_is_a_distribution(arpa: Path) -> None:
    by_hand = ArpaByHand(arpa)
    for history in (["<s>"], ["<s>", "the"], ["<s>", "the", "old"], ["<s>", "unheard"]):
        total = sum(
            2.718281828459045 ** by_hand.next(history, word) for word in [*VOCABULARY, "</s>", "<unk>"]
        )
        assert total == pytest.approx(1, abs=1e-4)
    assert set(VOCABULARY) <= set(WORDS)
