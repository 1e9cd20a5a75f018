"""The whole student: decoders teach, and leave no trace in what is kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_model import tiny_student

from student.config import StudentConfig
from student.errors import StudentError
from student.model.student_model import Bert2CTC, inference_state

TINY = tiny_student(num_layers=3, taps=(1, 2), dropout=0.1)
CONDITIONED = replace(TINY, conformer=replace(TINY.conformer, self_conditioning=True))


def model_of(config: StudentConfig = TINY, num_pieces: int | None = 10) -> Bert2CTC:
    torch.manual_seed(0)
    return Bert2CTC(config, 8, num_pieces)


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 60, 80), torch.tensor([60, 41]), torch.randint(0, 11, (2, 4))


def test_decoders_never_change_what_the_encoder_says() -> None:
    model = model_of().eval()
    features, lengths, pieces = batch()
    with_decoders, without = model(features, lengths, pieces), model(features, lengths)
    assert without.piece_scores == {} and list(with_decoders.piece_scores) == [1, 2, 3]
    for layer in (1, 2, 3):
        assert torch.equal(with_decoders.ctc_logits[layer], without.ctc_logits[layer])


def without_decoders(model: Bert2CTC) -> Bert2CTC:
    kept = Bert2CTC(model.config, model.num_units, None)
    kept.load_state_dict(inference_state(model.state_dict()))
    return kept


@pytest.mark.parametrize("config", [TINY, CONDITIONED], ids=["plain", "conditioned"])
def test_the_inference_state_keeps_the_output_and_none_of_the_decoders(config: StudentConfig) -> None:
    model = model_of(config)
    model.features.mean += 1.5
    kept = without_decoders(model)
    assert not [name for name in kept.state_dict() if name.startswith("decoders")]
    assert {name for name in model.state_dict() if not name.startswith("decoders")} == set(kept.state_dict())
    waveforms, lengths = 0.1 * torch.randn(2, 9_000), torch.tensor([9_000, 7_000])
    model.eval(), kept.eval()
    expected, actual = (m(*m.features(waveforms, lengths)).ctc_logits for m in (model, kept))
    assert all(torch.equal(expected[layer], actual[layer]) for layer in expected)
    kept.ctc_head.weight.data.zero_()  # a copy: the training goes on
    assert model.ctc_head.weight.abs().max() > 0


def test_a_model_without_decoders_refuses_pieces() -> None:
    with pytest.raises(StudentError, match="no decoders"):
        without_decoders(model_of())(*batch())


def test_a_shared_decoder_run_once_over_stacked_taps_equals_one_run_per_tap() -> None:
    model = model_of().eval()
    features, lengths, pieces = batch()
    encoded = model.encode(features, lengths)
    stacked = model.decode(encoded, pieces)
    for layer, hidden in encoded.hidden.items():
        alone = model.decoders["shared"](pieces, hidden, encoded.frame_lengths)
        torch.testing.assert_close(stacked[layer].states, alone, atol=1e-5, rtol=0)


def test_separate_decoders_differ_and_number_one_per_decoded_layer() -> None:
    config = replace(TINY, decoder=replace(TINY.decoder, shared=False))
    model = model_of(config)
    assert set(model.decoders) == {"1", "2", "3"}
    final_only = replace(config, objective=replace(config.objective, branch_on_taps=False))
    assert set(model_of(final_only).decoders) == {"3"}
    scores = model(*batch()).piece_scores
    assert not torch.allclose(scores[1].logits(), scores[2].logits())


def test_settings_that_train_no_branch_build_no_decoder() -> None:
    alone = replace(TINY.objective, ctc_weight=1.0, distillation_weight=0.0)
    assert len(model_of(replace(TINY, objective=alone)).decoders) == 0


def test_taps_that_ctc_does_not_train_are_not_projected() -> None:
    config = replace(TINY, objective=replace(TINY.objective, intermediate_ctc_weight=0.0))
    features, lengths, _ = batch()
    assert list(model_of(config)(features, lengths).ctc_logits) == [3]
    assert list(model_of()(features, lengths).ctc_logits) == [1, 2, 3]


def test_self_conditioning_changes_the_layers_above_the_first_tap_only() -> None:
    features, lengths, _ = batch()
    plain, conditioned = model_of().eval(), model_of(CONDITIONED).eval()
    conditioned.load_state_dict(plain.state_dict(), strict=False)
    before, after = (model(features, lengths).ctc_logits for model in (plain, conditioned))
    assert torch.equal(before[1], after[1])
    assert not torch.allclose(before[2], after[2])


@pytest.mark.parametrize("config", [TINY, CONDITIONED], ids=["plain", "conditioned"])
def test_from_samples_to_logits_padding_reaches_nothing(config: StudentConfig) -> None:
    model = model_of(config).eval()
    waveforms = 0.1 * torch.randn(2, 16_000)
    lengths = torch.tensor([16_000, 9_111])
    together = model(*model.features(waveforms, lengths))
    alone = model(*model.features(waveforms[1:, :9_111], lengths[1:]))
    kept = int(alone.frame_lengths[0])
    assert kept == together.frame_lengths[1] == alone.ctc_logits[3].shape[1]
    torch.testing.assert_close(together.ctc_logits[3][1, :kept], alone.ctc_logits[3][0], atol=1e-5, rtol=0)


def test_training_draws_dropout_from_the_default_generator_alone() -> None:
    model = model_of()
    outputs = []
    for _ in range(2):
        torch.manual_seed(4)
        outputs.append(model(*batch()))
    for layer in (1, 2, 3):
        assert torch.equal(outputs[0].ctc_logits[layer], outputs[1].ctc_logits[layer])
        assert torch.equal(outputs[0].piece_scores[layer].states, outputs[1].piece_scores[layer].states)


def test_every_weight_lies_in_memory_in_its_own_order() -> None:
    """Fused AdamW takes a gradient's memory for its weight's, and the ranks' sum hands out plain ones."""
    assert all(parameter.is_contiguous() for parameter in model_of().parameters())
