"""The smallest student that has all parts of a large one, for tests of tensors in and tensors out."""

from __future__ import annotations

from student.config import ConformerConfig, DecoderConfig, StudentConfig


def tiny_conformer(num_layers: int, taps: tuple[int, ...], dropout: float = 0.0) -> ConformerConfig:
    """Blocks of 16 with two heads."""
    return ConformerConfig(
        num_layers=num_layers,
        model_dim=16,
        num_heads=2,
        feed_forward_dim=32,
        conv_kernel_frames=5,
        subsampling_channels=4,
        dropout=dropout,
        taps=taps,
    )


def tiny_student(num_layers: int, taps: tuple[int, ...], dropout: float = 0.0) -> StudentConfig:
    """The same with a decoder of one block; objective and trainer at their defaults."""
    decoder = DecoderConfig(num_layers=1, num_heads=2, feed_forward_dim=32, dropout=dropout)
    return StudentConfig(conformer=tiny_conformer(num_layers, taps, dropout), decoder=decoder)
