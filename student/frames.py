"""Every law of lengths, once: samples, frames of 10 ms, encoder frames of 40 ms, and what CTC needs of those.

A count is an int, or an int64 tensor that is counted elementwise. Nothing here loads PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from student.config import FeatureConfig

if TYPE_CHECKING:
    from torch import Tensor

Count = TypeVar("Count", int, "Tensor")
_DEFAULT = FeatureConfig()
_LARGEST_DENOMINATOR = 100  # of a speed as a ratio: resampling filters grow with its terms


def samples_of(seconds: float, sample_rate_hz: int) -> int:
    """Samples of a recording whose duration is known to a microsecond, as manifests hold it."""
    return round(seconds * sample_rate_hz)


def speed_ratio(speed: float) -> Fraction:
    """A speed as the ratio of two small numbers."""
    return Fraction(speed).limit_denominator(_LARGEST_DENOMINATOR)


def samples_at_speed(num_samples: int, speed: float) -> int:
    """How many samples resampling leaves of a recording that is played `speed` times as fast."""
    ratio = speed_ratio(speed)
    quotient = ratio.denominator * num_samples / ratio.numerator
    return num_samples if ratio == 1 else ceil(np.float32(quotient))  # torchaudio rounds it to float32


def window_samples(config: FeatureConfig = _DEFAULT) -> int:
    """Samples that one feature frame sees."""
    return round(config.sample_rate_hz * config.window_milliseconds / 1000)


def hop_samples(config: FeatureConfig = _DEFAULT) -> int:
    """Samples from the start of one feature frame to the next."""
    return round(config.sample_rate_hz * config.hop_milliseconds / 1000)


def frames_of(num_samples: Count, config: FeatureConfig = _DEFAULT) -> Count:
    """Feature frames (10 ms) whose whole window lies within so many samples."""
    return _none_below_zero((num_samples - window_samples(config)) // hop_samples(config) + 1)


def frames_after_convolutions(num_frames: Count) -> Count:
    """What two convolutions of width 3 and stride 2 without padding leave of so many frames or bins."""
    return _none_below_zero((_none_below_zero((num_frames - 1) // 2) - 1) // 2)


def frames_after_subsampling(num_samples: Count, config: FeatureConfig = _DEFAULT) -> Count:
    """Encoder frames (40 ms) of so many samples."""
    return frames_after_convolutions(frames_of(num_samples, config))


def encoder_frames(seconds: float, config: FeatureConfig, speed: float = 1.0) -> int:
    """Encoder frames (40 ms) that a recording has when it is played `speed` times as fast."""
    recorded = samples_of(seconds, config.sample_rate_hz)
    return frames_after_subsampling(samples_at_speed(recorded, speed), config)


def frames_needed(unit_ids: Sequence[int]) -> int:
    """Encoder frames that CTC needs for the units: one each, and one more between equal neighbours.

    With fewer it gives them no probability at all (Graves et al. 2006, section 3.1).
    """
    return len(unit_ids) + sum(left == right for left, right in pairwise(unit_ids))


def fits_ctc(unit_ids: Sequence[int], seconds: float, config: FeatureConfig, speed: float = 1.0) -> bool:
    """True where CTC can align the units with a recording that is played `speed` times as fast."""
    return frames_needed(unit_ids) <= encoder_frames(seconds, config, speed)


def _none_below_zero(count: Count) -> Count:
    return count * (count > 0)
