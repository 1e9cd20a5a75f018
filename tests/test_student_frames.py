"""The laws of lengths are those of the tensors that a training gets, at every rate and speed."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.corpus.validation import too_dense
from student.config import SUBSAMPLINGS, ConformerConfig, FeatureConfig, StudentConfig
from student.data.augmentation import change_speed
from student.data.manifest import Utterance
from student.data.units import Units, train_units
from student.frames import (
    encoder_frames,
    fits_ctc,
    frames_after_subsampling,
    frames_needed,
    frames_of,
    least_frames,
    samples_at_speed,
    samples_of,
    too_few_frames,
)
from student.model.conformer import Subsampling
from student.model.features import LogMel

BINS = 15  # the fewest that three convolutions leave one of
SPEEDS = st.sampled_from([0.9, 1.0, 1.1]) | st.integers(25, 400).map(lambda percent: percent / 100)


@cache
def log_mel(config: FeatureConfig) -> LogMel:
    return LogMel(config)


@cache
def convolutions(subsampling: int) -> Subsampling:
    shape = ConformerConfig(subsampling_channels=1, model_dim=2, num_heads=1, subsampling=subsampling)
    return Subsampling(shape, BINS)


def in_a_manifest(num_samples: int, sample_rate_hz: int) -> float:
    """The duration as `bert2ctc data prepare` writes it."""
    return round(num_samples / sample_rate_hz, 6)


@given(st.integers(1, 10_000_000), st.integers(1000, 192_000))
def test_a_manifests_duration_tells_the_samples_exactly(num_samples: int, sample_rate_hz: int) -> None:
    assert samples_of(in_a_manifest(num_samples, sample_rate_hz), sample_rate_hz) == num_samples


@given(st.integers(1, 1_000_000), SPEEDS)
@example(808_101, 1.01)  # 800,100 and a hundredth: float32 drops it, and with it a sample
def test_a_speed_leaves_so_many_samples(num_samples: int, speed: float) -> None:
    played = change_speed(torch.zeros(num_samples), speed)
    assert len(played) == samples_at_speed(num_samples, speed)


@settings(max_examples=60)
@given(
    st.integers(1, 40_000),
    SPEEDS,
    st.sampled_from(
        [
            FeatureConfig(mel_bins=BINS),
            FeatureConfig(mel_bins=BINS, sample_rate_hz=8_000, hop_milliseconds=12.5),
            FeatureConfig(mel_bins=BINS, sample_rate_hz=11_025, window_milliseconds=20.0),
        ]
    ),
    st.sampled_from(SUBSAMPLINGS),
)
@example(1495, 1.1, FeatureConfig(mel_bins=BINS), 4)
@example(1360, 1.0, FeatureConfig(mel_bins=BINS), 4)
@example(2640, 1.0, FeatureConfig(mel_bins=BINS), 8)
def test_frames_are_those_of_a_real_waveform(
    num_samples: int, speed: float, config: FeatureConfig, subsampling: int
) -> None:
    waveform = change_speed(torch.randn(num_samples) / 10, speed)
    features, frame_lengths = log_mel(config)(waveform[None], torch.tensor([len(waveform)]))
    num_frames = int(frame_lengths[0])
    assert num_frames == frames_of(len(waveform), config)
    assert features.shape[1] == max(num_frames, 1)
    is_long_enough = num_frames >= least_frames(subsampling)
    encoded = convolutions(subsampling)(features).shape[1] if is_long_enough else 0
    seconds = in_a_manifest(num_samples, config.sample_rate_hz)
    assert encoder_frames(seconds, config, speed, subsampling) == encoded


@given(st.lists(st.integers(0, 100_000), min_size=1))
def test_tensors_are_counted_as_integers_are(counts: list[int]) -> None:
    for law in (frames_of, frames_after_subsampling):
        counted = law(torch.tensor(counts))
        assert counted.dtype == torch.int64
        assert counted.tolist() == [law(count) for count in counts]


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Units:
    return train_units(["abc"], tmp_path_factory.mktemp("units") / "units.model", 5, "char")[0]


@given(st.text("abc", min_size=1, max_size=12), st.integers(1, 12_000), SPEEDS, st.sampled_from(SUBSAMPLINGS))
@example("a", 2199, 1.1, 4)  # two units with the mark that begins a word
def test_validation_reports_what_training_leaves_out(
    units: Units, text: str, num_samples: int, speed: float, subsampling: int
) -> None:
    config = FeatureConfig()
    utterance = Utterance("one", "", text, in_a_manifest(num_samples, config.sample_rate_hz))
    is_left_out = not fits_ctc(units.encode(text), utterance.seconds, config, speed, subsampling)
    assert bool(too_dense({"train": [utterance]}, units, config, speed, subsampling)) == is_left_out


def test_the_utterances_that_two_laws_once_judged_differently() -> None:
    """2199 samples at speed 1.1 are 1999.09, and resampling leaves 2000: two encoder frames, not one."""
    config = FeatureConfig()
    assert samples_at_speed(2199, 1.1) == 2000
    assert frames_after_subsampling(2000) == 2 and frames_after_subsampling(1999) == 1
    assert fits_ctc([1, 2], in_a_manifest(2199, 16_000), config, 1.1)
    assert frames_needed([1, 1, 2]) == 4


def test_letters_on_long_frames_are_told_which_units_would_fit() -> None:
    assert too_few_frames(FeatureConfig(), 4, 28) == "more units than frames of 40 ms"
    assert too_few_frames(FeatureConfig(), 8, 256) == "more units than frames of 80 ms"
    told = too_few_frames(FeatureConfig(hop_milliseconds=12.5), 8, 28)
    assert "frames of 100 ms" in told and "data.unit_vocabulary_size = 256 or more, here it is 28" in told


def test_mel_bins_of_which_nothing_is_left_are_refused() -> None:
    shape = ConformerConfig(subsampling=8)
    with pytest.raises(ValueError, match="mel_bins 14 leaves nothing .* the least is 15"):
        StudentConfig(features=FeatureConfig(mel_bins=14), conformer=shape)
    StudentConfig(features=FeatureConfig(mel_bins=15), conformer=shape)
