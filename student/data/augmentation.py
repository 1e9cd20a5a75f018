"""SpecAugment and speed perturbation, by utterance: order and workers change nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import resample

from student.config import AugmentationConfig
from student.frames import speed_ratio


def utterance_generator(seed: int, epoch: int, utterance_id: str, purpose: str) -> np.random.Generator:
    """The random stream of one utterance in one epoch, for one purpose ("speed", "masks")."""
    key = hashlib.blake2b(f"{seed}/{epoch}/{purpose}/{utterance_id}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def speed_factor(config: AugmentationConfig, generator: np.random.Generator) -> float:
    """One of `speed_factors`; 1.1 is faster, so shorter."""
    return config.speed_factors[int(generator.integers(len(config.speed_factors)))]


def change_speed(waveform: Tensor, factor: float) -> Tensor:
    """The waveform (..., S) played `factor` times as fast, (..., samples_at_speed(S, factor))."""
    ratio = speed_ratio(factor)
    return waveform if ratio == 1 else resample(waveform, ratio.numerator, ratio.denominator)


def spec_augment(
    features: Tensor,
    frame_lengths: Tensor,
    config: AugmentationConfig,
    generators: Sequence[np.random.Generator],
    word_hop_milliseconds: float | None = None,
) -> Tensor:
    """A copy of the features with bands of frequency and time set to 0, the training set's mean.

    features : (B, T, F)     frame_lengths : int64 (B,)     generators : one per utterance
    word_hop_milliseconds : from frame to frame, where time masks are to be as long as words; else None
    Each time mask covers at most `time_mask_fraction` of its utterance (Park et al. 2019, section 2). Masks
    as long as words hide no more of it together than those could.
    """
    num_utterances, num_frames, num_bins = features.shape
    time = np.zeros((num_utterances, num_frames), dtype=bool)
    frequency = np.zeros((num_utterances, num_bins), dtype=bool)
    shortest, longest = (
        max(1, round(1000 * seconds / (word_hop_milliseconds or 1))) for seconds in config.word_mask_seconds
    )
    for row, (generator, length) in enumerate(zip(generators, frame_lengths.tolist(), strict=True)):
        widest = min(config.frequency_mask_bins, num_bins)
        _mask_bands(frequency[row], num_bins, widest, config.frequency_masks, generator)
        widest, count = int(config.time_mask_fraction * length), config.time_masks
        narrowest = 0
        if word_hop_milliseconds is not None:
            count = min(count, int(count * config.time_mask_fraction * length / longest))
            narrowest, widest = min(shortest, length), min(longest, length)
        _mask_bands(time[row], length, widest, count, generator, narrowest)
    masked = torch.from_numpy(time).unsqueeze(2) | torch.from_numpy(frequency).unsqueeze(1)
    return features.masked_fill(masked.to(features.device), 0.0)


def _mask_bands(
    masked: np.ndarray,
    length: int,
    widest: int,
    num_masks: int,
    generator: np.random.Generator,
    narrowest: int = 0,
) -> None:
    """Set `num_masks` bands of narrowest..widest positions within the first `length` to True, in place."""
    for _ in range(num_masks):
        width = int(generator.integers(narrowest, widest + 1))
        start = int(generator.integers(0, length - width + 1))
        masked[start : start + width] = True
