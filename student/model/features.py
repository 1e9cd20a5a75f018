"""Waveforms to normalised log-mel frames, each frame from its own samples and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torchaudio
from torch import Tensor, nn

from student.config import FeatureConfig
from student.frames import frames_of, hop_samples, window_samples
from student.model.masks import length_mask

_FLOOR = 1e-7  # power of a mel bin; 16-bit rounding noise lies near it


class LogMel(nn.Module):
    """Natural-log mel energies, normalised by the training set's mean and standard deviation per bin.

    Frame i sees the samples [i * hop, i * hop + window) alone, so that padding cannot reach it. The
    buffers `mean` and `deviation`, float32 (mel_bins,), travel in the state; `fit` sets them.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        self.window_samples, self.hop_samples = window_samples(config), hop_samples(config)
        fft_samples = 1 << (self.window_samples - 1).bit_length()
        with torch.device("cpu"):  # computed, which a meta device cannot
            self.mel = torchaudio.transforms.MelSpectrogram(
                sample_rate=config.sample_rate_hz,
                n_fft=fft_samples,
                win_length=self.window_samples,
                hop_length=self.hop_samples,
                f_min=20.0,
                f_max=config.highest_hz or None,
                n_mels=config.mel_bins,
                center=False,
            )
        # the window sits in the middle of its FFT frame: zeros on both sides let it start at sample 0
        self._margins = (
            (fft_samples - self.window_samples) // 2,
            (fft_samples - self.window_samples + 1) // 2,
        )
        self.register_buffer("mean", torch.zeros(config.mel_bins))
        self.register_buffer("deviation", torch.ones(config.mel_bins))

    def forward(self, waveforms: Tensor, sample_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised features (B, T, mel_bins) and frame lengths int64 (B,); 0 on padding.

        waveforms : float32 (B, S) in -1..1, anything as padding     sample_lengths : int64 (B,)
        """
        energies, frame_lengths = self.log_energies(waveforms, sample_lengths)
        features = (energies - self.mean) / self.deviation
        mask = length_mask(frame_lengths, features.shape[1])
        return features.masked_fill(~mask.unsqueeze(2), 0.0), frame_lengths

    def log_energies(self, waveforms: Tensor, sample_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel energies before normalisation, (B, T, mel_bins), and frame lengths; padding undefined."""
        padded = nn.functional.pad(waveforms, self._margins)
        shortage = self.window_samples - waveforms.shape[1]
        if shortage > 0:  # no whole frame: one of padding, with frame length 0
            padded = nn.functional.pad(padded, (0, shortage))
        with torch.autocast(waveforms.device.type, enabled=False):
            energies = self.mel(padded.float()).clamp(min=_FLOOR).log()
        return energies.transpose(1, 2), frames_of(sample_lengths, self.config)

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Set the normalisation to the mean and deviation over all frames of (waveforms, sample_lengths)."""
        count = torch.zeros((), dtype=torch.float64)
        total, squares = (torch.zeros(self.config.mel_bins, dtype=torch.float64) for _ in range(2))
        for waveforms, sample_lengths in batches:
            device = self.mean.device
            energies, frame_lengths = self.log_energies(waveforms.to(device), sample_lengths.to(device))
            real = energies[length_mask(frame_lengths, energies.shape[1])].double().cpu()
            count += real.shape[0]
            total += real.sum(0)
            squares += real.square().sum(0)
        mean = total / count
        self.mean.copy_(mean)
        self.deviation.copy_((squares / count - mean.square()).clamp(min=1e-4).sqrt())
