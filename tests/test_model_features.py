"""Features and augmentation: frames see their own samples only, and randomness follows the utterance."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from student.config import AugmentationConfig, ConformerConfig, FeatureConfig
from student.data.augmentation import (
    change_speed,
    spec_augment,
    speed_factor,
    utterance_generator,
)
from student.frames import frames_after_subsampling, frames_of, samples_at_speed
from student.model.conformer import Subsampling
from student.model.features import LogMel


@pytest.fixture(scope="module")
def log_mel() -> LogMel:
    return LogMel(FeatureConfig())


def noise(num_samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(seed))


def test_padding_changes_no_frame(log_mel: LogMel) -> None:
    short, long = noise(8_000), noise(24_000, seed=1)
    batch = torch.stack((torch.cat((short, 100 * noise(16_000, seed=2))), long))
    together, lengths = log_mel(batch, torch.tensor([8_000, 24_000]))
    alone, alone_lengths = log_mel(short[None], torch.tensor([8_000]))
    assert lengths[0] == alone_lengths[0] == alone.shape[1]
    torch.testing.assert_close(together[0, : lengths[0]], alone[0], atol=1e-5, rtol=0)
    assert together[0, lengths[0] :].abs().max() == 0


def test_a_frame_ends_with_its_window(log_mel: LogMel) -> None:
    waveform = noise(4_000)[None]
    changed = waveform.clone()
    changed[:, 1_600:] = 0.9
    frames, _ = log_mel(waveform, torch.tensor([4_000]))
    changed_frames, _ = log_mel(changed, torch.tensor([4_000]))
    is_same = (frames == changed_frames).all(dim=2)[0]
    last_untouched = (1_600 - 400) // 160  # its window ends at sample 1,600 exactly
    assert is_same[: last_untouched + 1].all()
    assert not is_same[last_untouched + 1 :].any()


@pytest.mark.parametrize("num_samples", [0, 399, 400, 559, 560, 1_359, 1_360, 16_000, 16_001, 47_999])
def test_frame_counts_are_those_of_the_tensors(log_mel: LogMel, num_samples: int) -> None:
    features, lengths = log_mel(noise(max(num_samples, 1))[None], torch.tensor([num_samples]))
    assert lengths[0] == frames_of(num_samples) <= features.shape[1]
    if num_samples >= 400:
        assert lengths[0] == features.shape[1]
    if features.shape[1] >= 7:
        subsampled = Subsampling(ConformerConfig(subsampling_channels=2), 80)(features)
        assert frames_after_subsampling(num_samples) == subsampled.shape[1]
    else:
        assert frames_after_subsampling(num_samples) == 0


def test_a_tone_lies_in_the_bin_of_its_pitch(log_mel: LogMel) -> None:
    time = torch.arange(16_000) / 16_000
    peaks = [
        log_mel((torch.sin(2 * torch.pi * pitch * time))[None], torch.tensor([16_000]))[0][0].mean(0).argmax()
        for pitch in (150, 400, 1_000, 3_000, 7_000)
    ]
    assert peaks == sorted(set(peaks))


def test_fitted_features_have_mean_zero_and_deviation_one_over_real_frames() -> None:
    log_mel = LogMel(FeatureConfig(mel_bins=40))
    batches = [
        (torch.stack((noise(16_000, seed), noise(16_000, seed + 1) * 3)), torch.tensor([16_000, 9_000]))
        for seed in (0, 2)
    ]
    log_mel.fit(batches)
    real = torch.cat(
        [row[:length] for batch in batches for row, length in zip(*log_mel(*batch), strict=True)]
    )
    torch.testing.assert_close(real.mean(0), torch.zeros(40), atol=1e-3, rtol=0)
    torch.testing.assert_close(real.std(0), torch.ones(40), atol=1e-2, rtol=0)


def test_silence_is_finite(log_mel: LogMel) -> None:
    assert log_mel(torch.zeros(1, 4_000), torch.tensor([4_000]))[0].isfinite().all()


def augmented(ids: list[str], seed: int = 1, epoch: int = 0, **values: float) -> torch.Tensor:
    config = AugmentationConfig(**values)  # type: ignore[arg-type]
    features = torch.ones(len(ids), 200, 80)
    generators = [utterance_generator(seed, epoch, name, "masks") for name in ids]
    return spec_augment(
        features, torch.tensor([200 - 20 * row for row in range(len(ids))]), config, generators
    )


def test_masks_follow_the_utterance_not_its_place_in_the_batch() -> None:
    both = augmented(["a", "b"])
    torch.testing.assert_close(augmented(["a"])[0], both[0])
    assert not torch.equal(both[0], augmented(["c", "a"])[0])


def test_masks_change_with_seed_and_epoch() -> None:
    assert not torch.equal(augmented(["a"]), augmented(["a"], seed=2))
    assert not torch.equal(augmented(["a"]), augmented(["a"], epoch=1))


def test_each_mask_setting_does_something_and_stays_within_its_bounds() -> None:
    none = {"frequency_masks": 0, "time_masks": 0}
    assert augmented(["a"], **none).all()
    bins = augmented(["a"], **none | {"frequency_masks": 1, "frequency_mask_bins": 10})
    frames = augmented(["a"], **none | {"time_masks": 1, "time_mask_fraction": 0.1})
    assert 0 < (bins == 0).all(dim=1).sum() <= 10 and (bins == 0).any(dim=2).all()
    assert 0 < (frames == 0).all(dim=2).sum() <= 20 and (frames == 0).any(dim=1).all()


@settings(deadline=None)
@given(
    st.integers(1, 400),
    st.integers(0, 6),
    st.floats(0, 1),
    st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)).map(sorted),
    st.sampled_from([10.0, 12.5]),
)
def test_word_masks_are_so_long_and_hide_no_more_than_plain_ones_might(
    length: int, masks: int, fraction: float, seconds: list[float], hop: float
) -> None:
    config = AugmentationConfig(
        frequency_masks=0, time_masks=masks, time_mask_fraction=fraction, word_mask_seconds=tuple(seconds)
    )
    generator = utterance_generator(1, 0, "a", "masks")
    features = spec_augment(torch.ones(1, 400, 2), torch.tensor([length]), config, [generator], hop)
    hidden = (features[0] == 0).all(dim=1)
    assert not hidden[length:].any()
    assert int(hidden.sum()) <= masks * fraction * length
    nothing = torch.zeros(1, dtype=torch.int32)
    edges = torch.diff(hidden.int(), prepend=nothing, append=nothing)
    runs = (edges == -1).nonzero() - (edges == 1).nonzero()
    assert (runs >= min(round(1000 * seconds[0] / hop), length)).all()


def test_enough_of_an_utterance_gets_all_its_word_masks() -> None:
    config = AugmentationConfig(frequency_masks=0, time_masks=1, time_mask_fraction=0.25)
    generators = [utterance_generator(1, 0, "a", "masks")]
    features = spec_augment(torch.ones(1, 200, 2), torch.tensor([200]), config, generators, 10.0)
    assert 30 <= int((features[0] == 0).all(dim=1).sum()) <= 50


def test_the_features_given_stay_as_they_are() -> None:
    features = torch.ones(1, 50, 80)
    spec_augment(
        features, torch.tensor([50]), AugmentationConfig(), [utterance_generator(1, 0, "a", "masks")]
    )
    assert features.all()


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1, 0.95, 1.25])
@pytest.mark.parametrize("num_samples", [1, 160, 15_999, 16_000])
def test_speed_changes_the_length_as_announced(factor: float, num_samples: int) -> None:
    assert change_speed(noise(num_samples), factor).shape == (samples_at_speed(num_samples, factor),)


def test_faster_speech_is_higher() -> None:
    tone = torch.sin(2 * torch.pi * 1_000 * torch.arange(16_000) / 16_000)
    peak = torch.fft.rfft(change_speed(tone, 1.1)).abs().argmax() * 16_000 / samples_at_speed(16_000, 1.1)
    assert abs(peak - 1_100) < 3


def test_every_speed_is_drawn_and_the_draw_follows_the_utterance() -> None:
    config = AugmentationConfig(speed_factors=(0.9, 1.0, 1.1))
    drawn = [speed_factor(config, utterance_generator(1, 0, str(name), "speed")) for name in range(50)]
    assert set(drawn) == {0.9, 1.0, 1.1}
    assert drawn[7] == speed_factor(config, utterance_generator(1, 0, "7", "speed"))
