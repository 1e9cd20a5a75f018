"""The decoder: it may not see the piece it is to name, nor the padding of what it hears."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from student.config import DecoderConfig
from student.model.attention_decoder import AttentionDecoder
from student.model.outputs import PieceScores

TINY = DecoderConfig(num_layers=2, num_heads=2, feed_forward_dim=32, dropout=0.0)
NUM_PIECES = 11


def decoder(config: DecoderConfig = TINY) -> AttentionDecoder:
    torch.manual_seed(0)
    return AttentionDecoder(config, 16, NUM_PIECES)


def batch(num_tokens: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    pieces = torch.randint(0, NUM_PIECES + 1, (3, num_tokens))
    return pieces, torch.randn(3, 13, 16), torch.tensor([13, 5, 9])


def test_a_state_depends_on_the_pieces_before_it_alone() -> None:
    pieces, hidden, lengths = batch()
    changed = pieces.clone()
    changed[:, 4] = (changed[:, 4] + 1) % NUM_PIECES
    model = decoder()
    before, after = model(pieces, hidden, lengths), model(changed, hidden, lengths)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.isclose(before[:, 4:], after[:, 4:]).all(dim=(1, 2)).any()


def test_frames_beyond_an_utterance_are_not_heard() -> None:
    pieces, hidden, lengths = batch()
    model = decoder()
    together = model(pieces, hidden, lengths)
    alone = model(pieces[1:2], hidden[1:2, :5], lengths[1:2])
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=0)


def test_pieces_after_the_end_change_nothing_before_it() -> None:
    pieces, hidden, lengths = batch()
    model = decoder()
    torch.testing.assert_close(
        model(pieces, hidden, lengths)[:, :3], model(pieces[:, :3], hidden, lengths), atol=1e-5, rtol=0
    )


def test_what_is_heard_matters_to_every_state() -> None:
    pieces, hidden, lengths = batch()
    model = decoder()
    difference = model(pieces, hidden, lengths) - model(pieces, hidden.flip(0), lengths.flip(0))
    assert (difference[0].abs().amax(-1) > 0).all()


def test_outputs_are_the_pieces_and_inputs_have_one_unknown_more() -> None:
    model = decoder()
    _, hidden, lengths = batch()
    unknown = torch.full((3, 2), NUM_PIECES)
    states = model(unknown, hidden, lengths)
    assert PieceScores(states, model.output_weight, model.bias).logits().shape == (3, 2, NUM_PIECES)
    with pytest.raises(IndexError):
        model(unknown + 1, hidden, lengths)


def test_positions_are_told_apart() -> None:
    _, hidden, lengths = batch()
    logits = decoder()(torch.full((3, 4), 2), hidden, lengths)
    assert not torch.allclose(logits[:, 1], logits[:, 2], atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [{"num_layers": 1}, {"num_heads": 4}, {"feed_forward_dim": 48}, {"dropout": 0.5}],
    ids=lambda change: next(iter(change)),
)
def test_each_setting_changes_the_decoder(change: dict[str, float]) -> None:
    inputs = batch()
    changed = decoder(replace(TINY, **change))(*inputs)  # type: ignore[arg-type]
    assert not torch.allclose(changed, decoder()(*inputs))
