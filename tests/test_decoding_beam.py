"""Prefix beam search against all alignments, written out: alone, fused, batched, padded."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import pytest
import torch
from toy_scorer import ToyScorer

from student.data.units import Units, train_units
from student.decoding.beam import BeamDecoder, BeamSettings
from student.decoding.greedy import greedy_ctc_decode
from student.decoding.interface import Hypothesis
from student.decoding.weights import FusionWeights, estimated_log_prior
from student.errors import StudentError

EXACT = BeamSettings(beam=160, units=9, certain_blank=1.0, hypotheses=160)
WEIGHTS = FusionWeights(language=0.7, insertion=0.4, prior=0.3)


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Units:
    """Three letters, the space mark and the blank: five outputs, and what SentencePiece adds."""
    path = tmp_path_factory.mktemp("units") / "units.model"
    return train_units(["ab ba", "b ab", "a a b"], path, 6, "char")[0]


def random_logits(num_rows: int, num_frames: int, num_units: int, seed: int, scale: float = 2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(num_rows, num_frames, num_units, generator=generator)


def all_readings(logits: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Log-probability of every unit sequence of one utterance (T, V): all V^T alignments summed."""
    log_probs = logits.log_softmax(-1).tolist()
    sums: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(logits.shape[1]), repeat=len(log_probs)):
        merged = [unit for place, unit in enumerate(path) if place == 0 or path[place - 1] != unit]
        units = tuple(unit for unit in merged if unit != 0)
        sums[units] += math.exp(sum(row[unit] for row, unit in zip(log_probs, path, strict=True)))
    return {units: math.log(probability) for units, probability in sums.items()}


def by_units(hypotheses: list[Hypothesis]) -> dict[tuple[int, ...], Hypothesis]:
    found = {hypothesis.units: hypothesis for hypothesis in hypotheses}
    assert len(found) == len(hypotheses), "a reading is there twice"
    return found


def is_close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_a_wide_beam_is_exhaustive_search(units: Units, seed: int) -> None:
    logits = random_logits(2, 4, units.size, seed)
    outcomes = BeamDecoder(name="beam", units=units, settings=EXACT).decode(logits, torch.tensor([4, 3]))
    for row, length, hypotheses in zip(logits, [4, 3], outcomes, strict=True):
        expected = all_readings(row[:length])
        found = by_units(hypotheses)
        best = sorted(expected, key=lambda units: -expected[units])
        assert [h.units for h in hypotheses] == best[:160]
        assert all(is_close(found[units].acoustic, expected[units]) for units in found)
        assert all(h.score == h.acoustic and h.language == 0 for h in hypotheses)
        assert hypotheses[0].text == units.decode(best[0])


@pytest.mark.parametrize("seed", range(3))
def test_a_fused_search_is_exhaustive_search_with_the_same_formula(units: Units, seed: int) -> None:
    logits = random_logits(1, 4, units.size, seed)
    scorer = ToyScorer(units.size, seed)
    log_prior = estimated_log_prior([(random_logits(1, 9, units.size, seed + 50), torch.tensor([9]))])
    decoder = BeamDecoder(
        name="beam_lm", units=units, settings=EXACT, scorer=scorer, weights=WEIGHTS, log_prior=log_prior
    )
    (hypotheses,) = decoder.decode(logits, torch.tensor([4]))
    expected = {}
    for sequence, acoustic in all_readings(logits[0]).items():
        prior = sum(float(log_prior[unit]) for unit in sequence)
        language = scorer.sentence(sequence)
        expected[sequence] = acoustic + 0.7 * language - 0.3 * prior + 0.4 * len(sequence)
    best = sorted(expected, key=lambda units: -expected[units])
    found = by_units(hypotheses)
    assert [h.units for h in hypotheses[:10]] == best[:10]
    for sequence, hypothesis in found.items():
        assert is_close(hypothesis.score, expected[sequence])
        assert is_close(hypothesis.language, scorer.sentence(sequence))


def test_a_narrow_fused_beam_finds_the_best_of_a_wide_one(units: Units) -> None:
    logits = random_logits(6, 20, units.size, 3, scale=4.0)
    lengths = torch.tensor([20, 20, 17, 12, 5, 1])
    scorer = ToyScorer(units.size, 1)
    weights = FusionWeights(language=0.5, insertion=0.5)
    wide, narrow = (
        BeamDecoder(
            name="beam_lm",
            units=units,
            settings=BeamSettings(beam=beam, certain_blank=1.0),
            scorer=scorer,
            weights=weights,
        ).decode(logits, lengths)
        for beam in (90, 30)
    )
    assert [row[0].units for row in wide] == [row[0].units for row in narrow]
    assert scorer.advanced_rows and max(scorer.advanced_rows) <= 6 * 90


def test_beam_1_with_sharp_posteriors_is_greedy(units: Units) -> None:
    generator = torch.Generator().manual_seed(5)
    paths = torch.randint(0, units.size, (8, 40), generator=generator)
    logits = 12.0 * torch.nn.functional.one_hot(paths, units.size)
    logits = logits + torch.rand(logits.shape, generator=generator)
    lengths = torch.tensor([40, 33, 40, 20, 7, 1, 0, 40])
    for certain_blank in (1.0, 0.999):
        settings = BeamSettings(beam=1, certain_blank=certain_blank)
        outcomes = BeamDecoder(name="beam", units=units, settings=settings).decode(logits, lengths)
        assert [list(row[0].units) for row in outcomes] == greedy_ctc_decode(logits, lengths)
        assert all(len(row) == 1 for row in outcomes)


def fused(units: Units, **settings: float) -> BeamDecoder:
    scorer = ToyScorer(units.size, 2)
    log_prior = estimated_log_prior([(random_logits(1, 30, units.size, 9), torch.tensor([30]))])
    return BeamDecoder(
        name="beam_lm",
        units=units,
        settings=BeamSettings(**settings),  # type: ignore[arg-type]
        scorer=scorer,
        weights=WEIGHTS,
        log_prior=log_prior,
    )


@pytest.mark.parametrize("certain_blank", [1.0, 0.9])
def test_an_utterance_alone_in_a_batch_and_beside_any_padding_is_read_alike(
    units: Units, certain_blank: float
) -> None:
    logits = random_logits(7, 25, units.size, 11, scale=3.0)
    logits[..., 0] += 2
    lengths = torch.tensor([25, 24, 18, 11, 3, 1, 0])
    decoder = fused(units, beam=8, certain_blank=certain_blank)
    together = decoder.decode(logits, lengths)
    for length, padding in ((lengths, 50.0), (lengths, -50.0)):
        padded = torch.cat([logits, torch.full((7, 6, units.size), padding)], 1)
        is_padding = torch.arange(31) >= length[:, None]
        padded = torch.where(is_padding[..., None], padding * torch.rand(padded.shape), padded)
        assert_alike(decoder.decode(padded, length), together)
    for row in range(7):
        alone = decoder.decode(logits[row : row + 1, : lengths[row]], lengths[row : row + 1])
        assert_alike(alone, together[row : row + 1])
    order = torch.tensor([3, 6, 0, 5, 1, 2, 4])
    shuffled = decoder.decode(logits[order], lengths[order])
    assert_alike(shuffled, [together[row] for row in order.tolist()])


def assert_alike(found: list[list[Hypothesis]], expected: list[list[Hypothesis]]) -> None:
    for some, others in zip(found, expected, strict=True):
        assert [h.units for h in some] == [h.units for h in others]
        assert all(is_close(one.score, other.score) for one, other in zip(some, others, strict=True))


def test_no_frames_and_no_utterances_have_the_empty_reading(units: Units) -> None:
    decoder = fused(units, beam=4)
    (hypotheses,) = decoder.decode(torch.zeros(1, 0, units.size), torch.tensor([0]))
    assert [h.text for h in hypotheses] == [""] and hypotheses[0].acoustic == 0
    assert decoder.decode(torch.zeros(0, 5, units.size), torch.zeros(0, dtype=torch.int64)) == []


def test_folded_blanks_keep_repeats_apart_and_their_own_probability(units: Units) -> None:
    """Exact where the folded blanks are certain: unit 1, blanks, unit 1 is two units, never one."""
    logits = torch.full((1, 9, units.size), -40.0)
    for frame, unit in enumerate([0, 1, 0, 0, 1, 1, 0, 2, 0]):
        logits[0, frame, unit] = 0.0
    logits[0, 7, 1] = -1.0
    lengths = torch.tensor([9])
    exact, folded = (
        BeamDecoder(name="beam", units=units, settings=BeamSettings(certain_blank=limit)).decode(
            logits, lengths
        )
        for limit in (1.0, 0.999)
    )
    assert folded[0][0].units == (1, 1, 2)
    assert [h.units for h in exact[0][:2]] == [h.units for h in folded[0][:2]]
    assert all(is_close(a.score, b.score) for a, b in zip(exact[0][:2], folded[0][:2], strict=True))


def test_a_scorer_is_not_asked_where_it_counts_nothing(units: Units) -> None:
    scorer = ToyScorer(units.size)
    decoder = BeamDecoder(name="beam_lm", units=units, scorer=scorer, weights=FusionWeights(insertion=0.1))
    decoder.decode(random_logits(2, 6, units.size, 0), torch.tensor([6, 4]))
    assert scorer.advanced_rows == []


def test_the_prior_is_the_share_of_all_mass_that_units_get(units: Units) -> None:
    logits = random_logits(3, 12, units.size, 4)
    lengths = torch.tensor([12, 7, 1])
    log_prior = estimated_log_prior([(logits[:2], lengths[:2]), (logits[2:], lengths[2:])])
    frames = torch.cat([row[:length] for row, length in zip(logits, lengths.tolist(), strict=True)])
    mass = frames.softmax(-1).sum(0)[1:]
    torch.testing.assert_close(log_prior[1:], (mass / mass.sum()).log())
    assert log_prior[0] == 0
    with pytest.raises(StudentError, match="no utterance"):
        estimated_log_prior([])


def test_what_does_not_fit_is_refused(units: Units) -> None:
    with pytest.raises(StudentError, match="9 units.*student.*lm ngram"):
        BeamDecoder(name="beam_ngram", units=units, scorer=ToyScorer(9))
    with pytest.raises(StudentError, match="bert2ctc tune RUN"):
        BeamDecoder(name="beam", units=units, weights=FusionWeights(prior=0.1))
    with pytest.raises(StudentError, match="finite"):
        FusionWeights(language=-1.0)
    with pytest.raises(StudentError, match="certain_blank 0"):
        BeamSettings(certain_blank=0)


@pytest.mark.gpu
def test_a_gpu_reads_what_a_cpu_reads(units: Units) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    logits = random_logits(7, 25, units.size, 11, scale=3.0)
    lengths = torch.tensor([25, 24, 18, 11, 3, 1, 0])
    decoder = fused(units, beam=8)
    assert_alike(decoder.decode(logits.cuda(), lengths.cuda()), decoder.decode(logits, lengths))
