"""Every law of lengths, once: samples, frames of 10 ms, encoder frames, and what CTC needs of those.

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
UNITS_FOR_LONG_FRAMES = 256  # or more, for frames of 80 ms: letters come faster than those
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


def frames_after_convolutions(num_frames: Count, subsampling: int = 4) -> Count:
    """What convolutions of width 3 and stride 2 without padding leave of so many frames or bins.

    subsampling : 2 to the power of their number
    """
    for _ in range(subsampling.bit_length() - 1):
        num_frames = _none_below_zero((num_frames - 1) // 2)
    return num_frames


def least_frames(subsampling: int = 4) -> int:
    """The fewest feature frames (or bins) of which those convolutions leave one."""
    return 2 * subsampling - 1


def encoder_frame_milliseconds(config: FeatureConfig, subsampling: int = 4) -> float:
    """From one encoder frame to the next, in ms."""
    return subsampling * config.hop_milliseconds


def encoder_frame_samples(config: FeatureConfig = _DEFAULT, subsampling: int = 4) -> int:
    """Samples from the start of what one encoder frame's convolutions see to that of the next."""
    return subsampling * hop_samples(config)


def encoder_window_samples(config: FeatureConfig = _DEFAULT, subsampling: int = 4) -> int:
    """Samples that one encoder frame's convolutions see; attention sees the whole waveform."""
    return (least_frames(subsampling) - 1) * hop_samples(config) + window_samples(config)


def frames_after_subsampling(
    num_samples: Count, config: FeatureConfig = _DEFAULT, subsampling: int = 4
) -> Count:
    """Encoder frames of so many samples."""
    return frames_after_convolutions(frames_of(num_samples, config), subsampling)


def encoder_frames(seconds: float, config: FeatureConfig, speed: float = 1.0, subsampling: int = 4) -> int:
    """Encoder frames that a recording has when it is played `speed` times as fast."""
    recorded = samples_of(seconds, config.sample_rate_hz)
    return frames_after_subsampling(samples_at_speed(recorded, speed), config, subsampling)


def frames_needed(unit_ids: Sequence[int]) -> int:
    """Encoder frames that CTC needs for the units: one each, and one more between equal neighbours.

    With fewer it gives them no probability at all (Graves et al. 2006, section 3.1).
    """
    return len(unit_ids) + sum(left == right for left, right in pairwise(unit_ids))


def fits_ctc(
    unit_ids: Sequence[int], seconds: float, config: FeatureConfig, speed: float = 1.0, subsampling: int = 4
) -> bool:
    """True where CTC can align the units with a recording that is played `speed` times as fast."""
    return frames_needed(unit_ids) <= encoder_frames(seconds, config, speed, subsampling)


def too_few_frames(config: FeatureConfig, subsampling: int, num_units: int) -> str:
    """Why an utterance does not fit, in words; with the units that would, where they are short for frames.

    num_units : of the unit model, without the blank
    """
    reason = f"more units than frames of {encoder_frame_milliseconds(config, subsampling):g} ms"
    if subsampling == 4 or num_units >= UNITS_FOR_LONG_FRAMES:
        return reason
    return (
        f"{reason}; conformer.subsampling = {subsampling} wants data.unit_vocabulary_size = "
        f"{UNITS_FOR_LONG_FRAMES} or more, here it is {num_units}"
    )


def _none_below_zero(count: Count) -> Count:
    return count * (count > 0)
