"""Settings of what the encoder hears and is: features, augmentation, Conformer."""

from __future__ import annotations

from dataclasses import dataclass

from teacher_cache.settings import check_settings, setting

SUBSAMPLINGS = (4, 8)
ENCODER_FRAMES = "encoder frames of 40 ms, or 80"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureConfig:
    """Log-mel features."""

    sample_rate_hz: int = setting(
        16_000, "of the corpus; another rate is refused, never resampled", unit="Hz", low=1000, high=192_000
    )
    mel_bins: int = setting(80, "bins of the mel scale", low=8, high=512)
    window_milliseconds: float = setting(25.0, "of one frame", unit="ms", above=0, high=1000)
    hop_milliseconds: float = setting(10.0, "from frame to frame", unit="ms", above=0, high=1000)
    highest_hz: float = setting(
        0.0, "upper end of the mel bins, 0: half the sample rate; lower where some speech is low-passed",
        unit="Hz", low=0, high=96_000,
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_settings(self)
        if self.highest_hz > self.sample_rate_hz / 2:
            raise ValueError(
                f"highest_hz {self.highest_hz:g} exceeds {self.sample_rate_hz / 2:g}, half of sample_rate_hz"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationConfig:
    """SpecAugment (Park et al. 2019, arXiv 1904.08779) and speed perturbation (Ko et al. 2015)."""

    speed_factors: tuple[float, ...] = setting(
        (1.0,), "one of them is drawn for each utterance and epoch; 1.1 is faster", low=0.25, high=4
    )
    frequency_masks: int = setting(2, "bands of mel bins hidden in an utterance", low=0, high=100)
    frequency_mask_bins: int = setting(27, "the widest band", unit="bins", low=0, high=512)
    time_masks: int = setting(5, "stretches of time hidden in an utterance", low=0, high=1000)
    time_mask_fraction: float = setting(
        0.05, "the longest stretch, as a share of the utterance", low=0, high=1
    )
    masks_from_step: int = setting(
        0, "nothing is hidden before it: masks prolong the plateau on which CTC writes nothing", unit="steps",
        low=0, high=10**9,
    )  # fmt: skip
    word_masks_below_cer: float = setting(
        0.0, "stretches are as long as words once dev's CER was this, such as 0.3, or lower; 0: never",
        low=0, high=1,
    )  # fmt: skip
    word_mask_seconds: tuple[float, ...] = setting(
        (0.3, 0.5), "the shortest and the longest of those; as many of time_masks as fit into time_masks x "
        "time_mask_fraction of the utterance",
        unit="s", above=0, high=60,
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.speed_factors:
            raise ValueError("speed_factors names none; [1.0] leaves speech as it is")
        if len(self.word_mask_seconds) != 2 or self.word_mask_seconds[0] > self.word_mask_seconds[1]:
            raise ValueError(f"word_mask_seconds {list(self.word_mask_seconds)} must be two, the longer last")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConformerConfig:
    """Gulati et al. 2020, arXiv 2005.08100, with rotary attention and a LayerNorm convolution module."""

    num_layers: int = setting(12, "blocks", low=1, high=256)
    model_dim: int = setting(256, "width of every block; divisible by twice num_heads", low=2, high=16_384)
    num_heads: int = setting(4, "of self-attention", low=1, high=256)
    feed_forward_dim: int = setting(1024, "inner width of the two feed-forward parts", low=1, high=65_536)
    conv_kernel_frames: int = setting(
        31, "of the depthwise convolution; odd, so that output is as long as input", unit=ENCODER_FRAMES,
        low=1, high=1001,
    )  # fmt: skip
    subsampling: int = setting(
        4, "frames of 10 ms to an encoder frame, 4 or 8; 8, as in FastConformer (Rekesh et al. 2023, arXiv "
        "2305.05084), halves what every block has to do, and wants 256 units or more: letters do not fit",
        low=4, high=8,
    )  # fmt: skip
    subsampling_channels: int = setting(64, "of the convolutions that shorten time", low=1, high=4096)
    dropout: float = setting(0.1, "of what each part adds to the residual", low=0, below=1)
    taps: tuple[int, ...] = setting(
        (4, 8), "intermediate layers that CTC and decoders train, from 1: one and two thirds of the depth",
        low=1, high=256,
    )  # fmt: skip
    self_conditioning: bool = setting(
        False, "feed each tap's CTC posteriors back (Nozaki and Komatsu 2021, arXiv 2104.02724)"
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.model_dim % (2 * self.num_heads):
            raise ValueError(
                f"model_dim {self.model_dim} must be divisible by twice num_heads {self.num_heads}"
            )
        if self.subsampling not in SUBSAMPLINGS:
            raise ValueError(f"subsampling {self.subsampling} must be {' or '.join(map(str, SUBSAMPLINGS))}")
        if self.conv_kernel_frames % 2 == 0:
            raise ValueError(f"conv_kernel_frames {self.conv_kernel_frames} must be odd")
        if list(self.taps) != sorted(set(self.taps)) or not all(
            1 <= tap < self.num_layers for tap in self.taps
        ):
            raise ValueError(f"taps {self.taps} must ascend within 1..{self.num_layers - 1}")
