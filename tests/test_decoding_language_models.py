"""Beams with the language models of pipeline/: each unit has its own score, the best reading is found."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
import torch
from test_decoding_beam import all_readings, by_units, is_close, random_logits
from toy_arpa import ArpaByHand, write_arpa

from pipeline.language_model.folder import open_scorer, publish
from pipeline.language_model.kinds import NETWORK
from pipeline.language_model.network_training import make_network
from pipeline.language_model.settings import LanguageModelConfig
from student.data.units import Units, train_units
from student.decoding.beam import BeamDecoder, BeamSettings
from student.decoding.weights import FusionWeights

PIECES = ["▁a", "b", "▁c", "d", "▁e"]
EXACT = BeamSettings(beam=600, units=9, certain_blank=1.0, hypotheses=600)
NUM_FRAMES = 3


class NumberedUnits:
    """Units whose pieces have the numbers that one gives them."""

    model_bytes = b""

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = ["", *pieces]

    @property
    def size(self) -> int:
        return len(self.pieces)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces[unit] for unit in ids)


@pytest.mark.parametrize("seed", range(4))
def test_every_unit_s_score_is_the_arpa_s_however_units_and_n_grams_are_ordered(
    seed: int, tmp_path: Path
) -> None:
    draw = random.Random(seed)
    sentences = [draw.choices(PIECES, [8, 4, 2, 1, 1], k=draw.randrange(1, 7)) for _ in range(80)]
    path = write_arpa(tmp_path / "units.arpa", sentences, order=3, seed=seed)
    units = cast(Units, NumberedUnits(draw.sample(["<unk>", *PIECES], len(PIECES) + 1)))
    weights = FusionWeights(language=0.8, insertion=0.2)
    decoder = BeamDecoder(
        name="beam_ngram", units=units, settings=EXACT, scorer=open_scorer(path, units), weights=weights
    )
    logits = random_logits(1, NUM_FRAMES, units.size, seed)
    expected, arpa = all_readings(logits[0]), ArpaByHand(path)
    (hypotheses,) = decoder.decode(logits, torch.tensor([NUM_FRAMES]))
    assert by_units(hypotheses).keys() == expected.keys()  # so that every unit stood behind every other one
    for found in hypotheses:
        language = arpa.sentence([units.pieces[unit] for unit in found.units])
        assert is_close(found.language, language), found
        assert is_close(found.acoustic, expected[found.units])
        assert is_close(found.score, found.acoustic + 0.8 * language + 0.2 * len(found.units))


@pytest.mark.parametrize("seed", range(2))
def test_a_beam_with_a_network_is_exhaustive_search_with_that_network(seed: int, tmp_path: Path) -> None:
    units, _ = train_units(["ab ba", "b ab", "a a b"], tmp_path / "units.model", 6, "char")
    torch.manual_seed(seed)
    config = LanguageModelConfig(num_layers=2, hidden_dim=16, num_heads=2, max_positions=12)
    network = make_network(config, units.size).eval()
    with torch.no_grad():
        network.lm_head.weight.mul_(30)  # so that an untrained one prefers some units to others
    folder, write = tmp_path / "network", network.save_pretrained
    publish(folder, write, kind=NETWORK, recipe={}, units=units, text={}, figures={})
    decoder = BeamDecoder(
        name="beam_lm",
        units=units,
        settings=EXACT,
        scorer=open_scorer(folder, units),
        weights=FusionWeights(language=0.6, insertion=0.3),
    )
    logits = random_logits(2, NUM_FRAMES, units.size, seed)
    outcomes = decoder.decode(logits, torch.tensor([NUM_FRAMES, NUM_FRAMES - 1]))
    for row, length, hypotheses in zip(logits, (NUM_FRAMES, NUM_FRAMES - 1), outcomes, strict=True):
        acoustic = all_readings(row[:length])
        language = {sequence: whole_sentence(network, sequence) for sequence in acoustic}
        scores = {
            sequence: acoustic[sequence] + 0.6 * language[sequence] + 0.3 * len(sequence)
            for sequence in acoustic
        }
        found = by_units(hypotheses)
        assert found.keys() == scores.keys()
        assert hypotheses[0].units == max(scores, key=lambda sequence: scores[sequence])
        assert all(is_close(found[sequence].score, scores[sequence]) for sequence in scores)
        assert all(is_close(found[sequence].language, language[sequence]) for sequence in scores)
    assert max(language.values()) - min(language.values()) > 1


def whole_sentence(network: torch.nn.Module, sequence: Sequence[int]) -> float:
    """Natural log-probability of a sentence and its end, by one call without a cache."""
    ids = torch.tensor([[0, *sequence]])
    with torch.no_grad():
        log_probs = network(input_ids=ids).logits[0].log_softmax(-1)
    return float(log_probs.gather(1, torch.tensor([[*sequence, 0]]).T).sum())
