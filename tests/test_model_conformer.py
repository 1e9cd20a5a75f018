"""The encoder: an utterance's frames are its own, whatever shares its batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_model import tiny_conformer
from torch import nn

from student.config import ConformerConfig
from student.errors import StudentError
from student.frames import frames_after_convolutions, least_frames
from student.model.attention import attend, rotate, rotation
from student.model.conformer import Conformer
from student.model.dropout import Dropout

TINY = tiny_conformer(num_layers=3, taps=(1, 2))
BINS = 20
EIGHT = replace(TINY, subsampling=8)
BOTH = pytest.mark.parametrize("config", [TINY, EIGHT], ids=["4", "8"])


def encoder(config: ConformerConfig = TINY, seed: int = 0) -> Conformer:
    torch.manual_seed(seed)
    return Conformer(config, BINS)


def utterances(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features whose padding is loud noise: nothing may hear it."""
    torch.manual_seed(sum(lengths))
    return torch.randn(len(lengths), max(lengths), BINS), torch.tensor(lengths)


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize(
    ("config", "num_frames"),
    [
        *((TINY, count) for count in (7, 10, 11, 12, 13, 63)),
        *((EIGHT, count) for count in (15, 22, 23, 24, 63)),
    ],
)
def test_padding_invariance(is_training: bool, config: ConformerConfig, num_frames: int) -> None:
    model = encoder(config).train(is_training)
    features, lengths = utterances(97, num_frames, 50)
    features[1, num_frames:] *= 100
    together = model(features, lengths)
    alone = model(features[1:2, :num_frames], lengths[1:2])
    kept = int(alone.frame_lengths[0])
    assert together.frame_lengths[1] == kept == alone.hidden[3].shape[1]
    for layer in (1, 2, 3):
        torch.testing.assert_close(
            together.hidden[layer][1, :kept], alone.hidden[layer][0], atol=1e-5, rtol=0
        )


@BOTH
def test_gradients_are_padding_invariant_too(config: ConformerConfig) -> None:
    features, lengths = utterances(97, 40)
    gradients = []
    for batches in ([(features, lengths)], [(features[:1], lengths[:1]), (features[1:, :40], lengths[1:])]):
        model = encoder(config).train()
        for batch in batches:
            encoded = model(*batch)
            for row, length in enumerate(encoded.frame_lengths):
                encoded.hidden[3][row, :length].square().sum().backward(retain_graph=True)
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("is_training", [False, True])
def test_order_in_the_batch_changes_nothing(is_training: bool) -> None:
    model = encoder().train(is_training)
    features, lengths = utterances(97, 40, 63)
    order = torch.tensor([2, 0, 1])
    straight, shuffled = model(features, lengths), model(features[order], lengths[order])
    for row, length in enumerate(shuffled.frame_lengths):
        torch.testing.assert_close(
            shuffled.hidden[3][row, :length], straight.hidden[3][order[row], :length], atol=1e-5, rtol=0
        )


def test_taps_and_the_final_layer_come_back_by_number() -> None:
    encoded = encoder()(*utterances(40))
    assert list(encoded.hidden) == [1, 2, 3]
    assert list(encoder(replace(TINY, taps=()))(*utterances(40)).hidden) == [3]


def test_a_tap_is_what_a_shallower_encoder_would_end_with() -> None:
    deep, shallow = encoder().eval(), encoder(replace(TINY, num_layers=2, taps=())).eval()
    shallow.load_state_dict({k: v for k, v in deep.state_dict().items() if not k.startswith("blocks.2.")})
    batch = utterances(40, 30)
    torch.testing.assert_close(deep(*batch).hidden[2], shallow(*batch).hidden[2])


def test_conditioning_reaches_the_layers_above_its_tap_only() -> None:
    model = encoder().eval()
    batch = utterances(40)
    plain = model(*batch).hidden
    seen: list[int] = []

    def condition(hidden: torch.Tensor) -> torch.Tensor:
        seen.append(hidden.shape[1])
        return torch.ones_like(hidden).cumsum(-1)

    conditioned = model(*batch, condition).hidden
    assert len(seen) == 2
    torch.testing.assert_close(plain[1], conditioned[1])
    assert not torch.allclose(plain[2], conditioned[2])


@pytest.mark.parametrize(
    "change",
    [
        {"num_layers": 4},
        {"model_dim": 24},
        {"num_heads": 4},
        {"feed_forward_dim": 48},
        {"conv_kernel_frames": 3},
        {"subsampling": 8},
        {"subsampling_channels": 3},
        {"dropout": 0.5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_setting_changes_the_encoder(change: dict[str, float]) -> None:
    batch = utterances(40)
    plain = encoder()(*batch).hidden[1]
    changed = encoder(replace(TINY, **change))(*batch)  # type: ignore[arg-type]
    if "num_layers" in change:
        assert max(changed.hidden) == 4
    else:
        assert changed.hidden[1].shape != plain.shape or not torch.allclose(changed.hidden[1], plain)


@pytest.mark.parametrize(
    ("config", "num_frames", "least"),
    [*((TINY, count, "7 .*85 ms") for count in (0, 1, 6)), (EIGHT, 14, "15 .*165 ms")],
)
def test_an_utterance_without_a_frame_left_is_refused(
    config: ConformerConfig, num_frames: int, least: str
) -> None:
    features, lengths = utterances(40, 40)
    lengths[1] = num_frames
    with pytest.raises(StudentError, match=least):
        encoder(config)(features, lengths)


def test_eight_halves_the_frames_once_more_and_never_mixes_channels_before_it_is_told_to() -> None:
    four, eight = (encoder(config)(*utterances(160)).hidden[3].shape[1] for config in (TINY, EIGHT))
    assert (four, eight) == (39, 19)
    second = encoder(EIGHT).subsampling.second
    x = torch.randn(1, TINY.subsampling_channels, 9, 9, requires_grad=True)
    (reached,) = torch.autograd.grad(second.depthwise(x)[:, 1].sum(), x)
    assert [bool(channel.abs().sum()) for channel in reached[0]] == [False, True, False, False]
    with pytest.raises(ValueError, match="subsampling 6 must be 4 or 8"):
        replace(TINY, subsampling=6)


@pytest.mark.parametrize(("subsampling", "num_convolutions"), [(4, 2), (8, 3)])
def test_frames_after_convolutions_is_the_length_that_convolutions_leave(
    subsampling: int, num_convolutions: int
) -> None:
    convolutions = nn.Sequential(*[nn.Conv1d(1, 1, 3, stride=2) for _ in range(num_convolutions)])
    assert frames_after_convolutions(least_frames(subsampling) - 1, subsampling) == 0
    for num_frames in range(least_frames(subsampling), 60):
        expected = convolutions(torch.zeros(1, 1, num_frames)).shape[2]
        assert frames_after_convolutions(torch.tensor(num_frames), subsampling) == expected


def test_bfloat16_stays_close_to_float32_and_ignores_padding() -> None:
    model = encoder().eval()
    features, lengths = utterances(97, 40)
    exact = model(features, lengths).hidden[3][1, :9]
    with torch.autocast("cpu", torch.bfloat16):
        together = model(features, lengths).hidden[3][1, :9]
        alone = model(features[1:, :40], lengths[1:]).hidden[3][0, :9]
    torch.testing.assert_close(together, alone, atol=0.1, rtol=0)
    torch.testing.assert_close(together.float(), exact, atol=0.2, rtol=0)


def test_rotation_keeps_lengths_and_scores_depend_on_distance_alone() -> None:
    torch.manual_seed(0)
    pair = torch.randn(2, 3, 1, 8).expand(2, 3, 50, 8)
    turned = rotate(pair, rotation(50, 8, pair))
    torch.testing.assert_close(turned.norm(dim=-1), pair.norm(dim=-1))
    query, key = turned
    scores = torch.einsum("htd,hsd->hts", query, key)
    torch.testing.assert_close(scores[:, 7, 3], scores[:, 31, 27], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(scores[:, 7, 3], scores[:, 3, 7])


@pytest.mark.parametrize("kind", ["open", "masked", "causal"])
def test_both_forms_of_attention_agree(kind: str) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 2, 9, 8, requires_grad=True) for _ in range(3))
    mask = (torch.arange(9) < torch.tensor([[9], [5]]))[:, None, None] if kind == "masked" else None
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        attended = attend(query.to(dtype), key.to(dtype), value.to(dtype), mask, kind == "causal")
        gradients = torch.autograd.grad(attended.float().square().sum(), (query, key, value))
        results.append((attended.float(), *gradients))
    for exact, rounded in zip(*results, strict=True):
        torch.testing.assert_close(exact, rounded, atol=0.15, rtol=0.05)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_dropout_zeroes_the_stated_share_and_keeps_the_mean(probability: float) -> None:
    torch.manual_seed(0)
    layer = Dropout(probability)
    ones = torch.ones(401, 1001, requires_grad=True)
    dropped = layer(ones)
    (gradient,) = torch.autograd.grad(dropped.sum(), ones)
    assert torch.equal(gradient, dropped)
    assert abs((dropped == 0).float().mean() - probability) < 0.005
    assert abs(dropped.mean() - 1) < 0.005
    assert len(dropped.unique()) == 2
    flat = (dropped.flatten() == 0).float() - probability
    variance = probability * (1 - probability)
    for lag in (1, 2, 3, 4, 1001):  # one 64-bit draw decides four places: they must not know each other
        assert abs((flat[lag:] * flat[:-lag]).mean() / variance) < 0.01
    assert layer.eval()(ones) is ones


def test_dropout_follows_the_default_generator() -> None:
    layer, ones = Dropout(0.5), torch.ones(100)
    torch.manual_seed(3)
    first, second = layer(ones), layer(ones)
    torch.manual_seed(3)
    assert torch.equal(first, layer(ones)) and not torch.equal(first, second)
