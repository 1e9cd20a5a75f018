"""A Conformer encoder with taps in which padding reaches nothing: Gulati et al. 2020, arXiv 2005.08100.

B batch, T frames of 10 ms, T' encoder frames of 40 or 80 ms, D model width, H heads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from student.config import ConformerConfig
from student.errors import StudentError
from student.frames import frames_after_convolutions, least_frames
from student.model.attention import attend, rotate, rotation
from student.model.depthwise import DepthwiseConvolution
from student.model.dropout import Dropout
from student.model.masks import length_mask


class EncoderOutput(NamedTuple):
    """Hidden states of taps and final layer by number (1-based), (B, T', D); frame lengths int64 (B,)."""

    hidden: dict[int, Tensor]
    frame_lengths: Tensor


class Conformer(nn.Module):
    """Subsampling by four or eight, then blocks; `taps` and the final layer are returned.

    Frame lengths after subsampling are exact: what lies beyond an utterance's end changes none of its frames.
    """

    def __init__(self, config: ConformerConfig, mel_bins: int) -> None:
        super().__init__()
        self.config = config
        self.subsampling = Subsampling(config, mel_bins)
        self.blocks = nn.ModuleList(ConformerBlock(config) for _ in range(config.num_layers))

    def forward(
        self,
        features: Tensor,
        frame_lengths: Tensor,
        condition: Callable[[Tensor], Tensor] | None = None,
    ) -> EncoderOutput:
        """Encode normalised features (B, T, F); `condition(hidden)` is added after every tap."""
        subsampling = self.config.subsampling
        frame_lengths = frames_after_convolutions(frame_lengths, subsampling)
        num_frames = frames_after_convolutions(features.shape[1], subsampling)
        mask = _mask(frame_lengths, num_frames, subsampling)
        x = self.subsampling(features)
        rotation_by_frame = rotation(x.shape[1], self.config.model_dim // self.config.num_heads, x)
        hidden: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, mask, rotation_by_frame)
            if number in self.config.taps or number == len(self.blocks):
                hidden[number] = x
                if condition is not None and number < len(self.blocks):
                    x = x + condition(x)
        return EncoderOutput(hidden, frame_lengths)


def _mask(frame_lengths: Tensor, num_frames: int, subsampling: int) -> Tensor | None:
    """True on each utterance's frames, bool (B, T'), or None where every utterance fills the batch."""
    shortest = int(frame_lengths.min())
    if shortest < 1:
        least = least_frames(subsampling)
        raise StudentError(
            f"an utterance has no frame after subsampling, the least is {least} frames of 10 ms "
            f"({10 * least + 15} ms of audio); leave it out with "
            "`bert2ctc data prepare --leave-out-bad`"
        )
    if shortest == num_frames:
        return None
    return length_mask(frame_lengths, num_frames)


class Subsampling(nn.Module):
    """(B, T, F) to (B, T', D) by 3 x 3 convolutions of stride 2: two, or three of which two are separable.

    Without padding in time a frame within an utterance's length depends on real frames only: no mask
    is needed. With channels-last weights a CPU convolves, rectifies and differentiates twice as fast.
    """

    def __init__(self, config: ConformerConfig, mel_bins: int) -> None:
        super().__init__()
        channels = config.subsampling_channels
        self.first = nn.Conv2d(1, channels, 3, stride=2)
        if config.subsampling == 4:
            self.second: nn.Conv2d | SeparableConvolution = nn.Conv2d(channels, channels, 3, stride=2)
        else:
            self.second, self.third = SeparableConvolution(channels), SeparableConvolution(channels)
        bins = frames_after_convolutions(mel_bins, config.subsampling)
        self.project = nn.Linear(channels * bins, config.model_dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, F) to (B, T', D)."""
        x = functional.relu(_convolved(features.unsqueeze(1), self.first))
        if isinstance(self.second, SeparableConvolution):
            x = functional.relu(self.third(functional.relu(self.second(x))))
        else:
            x = functional.relu(_convolved(x, self.second))
        projected: Tensor = self.project(x.permute(0, 2, 3, 1).flatten(2))
        dropped: Tensor = self.dropout(projected)
        return dropped


class SeparableConvolution(nn.Module):
    """3 x 3 of stride 2 in each channel, without padding, then a mixture of the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, stride=2, groups=channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, F) to (B, C, (T - 1) // 2, (F - 1) // 2)."""
        return _convolved(_convolved(x, self.depthwise), self.pointwise)


def _convolved(x: Tensor, convolution: nn.Conv2d) -> Tensor:
    """By weights laid out channels-last, and not kept so: fused optimisers and ranks read memory in order.

    So is the result, which one input channel leaves otherwise: its gradient comes back channels-last, and
    a rectifier of another layout would spend 2 % of a step on it.
    """
    weight = convolution.weight.contiguous(memory_format=torch.channels_last)
    convolved = functional.conv2d(x, weight, convolution.bias, convolution.stride, groups=convolution.groups)
    return convolved.contiguous(memory_format=torch.channels_last)


class ConformerBlock(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, LayerNorm; a residual around each part.

    Dropout falls on what each part adds to the residual, and nowhere else: masks over the wider inner
    layers too would triple what it costs.
    """

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.feed_forward_in = FeedForward(config)
        self.attention = RotaryAttention(config)
        self.convolution = ConvolutionModule(config)
        self.feed_forward_out = FeedForward(config)
        self.norm = nn.LayerNorm(config.model_dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None, rotation_by_frame: Tensor) -> Tensor:
        """(B, T', D) to (B, T', D); `mask` is True on an utterance's frames, bool (B, T')."""
        x = torch.add(x, self.dropout(self.feed_forward_in(x)), alpha=0.5)
        x = x + self.dropout(self.attention(x, mask, rotation_by_frame))
        x = x + self.dropout(self.convolution(x, mask))
        x = torch.add(x, self.dropout(self.feed_forward_out(x)), alpha=0.5)
        normalised: Tensor = self.norm(x)
        return normalised


class FeedForward(nn.Sequential):
    """LayerNorm, widen, SiLU, narrow: frame by frame."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__(
            nn.LayerNorm(config.model_dim),
            nn.Linear(config.model_dim, config.feed_forward_dim),
            nn.SiLU(),
            nn.Linear(config.feed_forward_dim, config.model_dim),
        )


class RotaryAttention(nn.Module):
    """Multi-head self-attention with rotary positions (Su et al. 2021, arXiv 2104.09864)."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.norm = nn.LayerNorm(config.model_dim)
        self.project_in = nn.Linear(config.model_dim, 3 * config.model_dim)
        self.project_out = nn.Linear(config.model_dim, config.model_dim)

    def forward(self, x: Tensor, mask: Tensor | None, rotation_by_frame: Tensor) -> Tensor:
        """(B, T', D) to (B, T', D)."""
        mixed = self.project_in(self.norm(x)).unflatten(-1, (3, self.num_heads, -1))
        mixed = mixed.permute(2, 0, 3, 1, 4)  # (3, B, H, T', D/H): turned in the layout that products read
        query, key = rotate(mixed[:2], rotation_by_frame)
        attended = attend(query, key, mixed[2], None if mask is None else mask[:, None, None, :])
        projected: Tensor = self.project_out(attended.transpose(1, 2).flatten(2))
        return projected


class ConvolutionModule(nn.Module):
    """Gate, depthwise convolution over time, LayerNorm per frame, SiLU.

    LayerNorm, unlike BatchNorm, lets no statistic cross frames or utterances.
    """

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        width, kernel = config.model_dim, config.conv_kernel_frames
        self.norm_in = nn.LayerNorm(width)
        self.gate = nn.Linear(width, 2 * width)
        self.depthwise = DepthwiseConvolution(width, kernel)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T', D) to (B, T', D)."""
        x = functional.glu(self.gate(self.norm_in(x)), dim=-1)
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(2), 0.0)  # the kernel must not see padding
        x = self.depthwise(x)
        projected: Tensor = self.project(functional.silu(self.norm(x)))
        return projected
