"""The attention decoder: used in training alone, it pushes what the teacher knows down into the encoder."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn

from student.config import DecoderConfig
from student.model.attention import attend
from student.model.dropout import Dropout
from student.model.masks import length_mask


class AttentionDecoder(nn.Module):
    """A causal pre-norm Transformer decoder, teacher-forced, that listens to one tap of the encoder.

    num_pieces : outputs, <eos> included; inputs have one more, id num_pieces, for a piece out of vocabulary
    Output weights are the input embeddings (Press and Wolf 2017): most pieces are there only because the
    teacher ranks them, and the tie halves what the largest matrix costs in memory and optimiser time.
    """

    def __init__(self, config: DecoderConfig, model_dim: int, num_pieces: int) -> None:
        super().__init__()
        self.num_pieces = num_pieces
        self.scale = sqrt(model_dim)
        self.embedding = nn.Embedding(num_pieces + 1, model_dim)
        nn.init.normal_(self.embedding.weight, std=1 / self.scale)
        self.bias = nn.Parameter(torch.zeros(num_pieces))
        self.blocks = nn.ModuleList(DecoderBlock(config, model_dim) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(model_dim)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, piece_inputs: Tensor, hidden: Tensor, frame_lengths: Tensor, windows: Tensor | None = None
    ) -> Tensor:
        """States (B, U + 1, D) whose projection scores the piece that follows each input.

        piece_inputs : int64 (B, U + 1)     hidden : (B, T', D)     frame_lengths : int64 (B,)
        windows : bool (B, U + 1, T'), True where a token may attend, one frame at least; None: anywhere
        """
        if windows is not None:
            mask: Tensor | None = windows.unsqueeze(1)
        else:
            frames = length_mask(frame_lengths, hidden.shape[1])
            mask = None if bool(frames.all()) else frames[:, None, None, :]
        x = self.embedding(piece_inputs) * self.scale
        x = self.dropout(x + _sinusoids(piece_inputs.shape[1], x))
        for block in self.blocks:
            x = block(x, hidden, mask)
        states: Tensor = self.norm(x)
        return states

    @property
    def output_weight(self) -> Tensor:
        """Weights of the projection, (num_pieces, D)."""
        return self.embedding.weight[: self.num_pieces]


class DecoderBlock(nn.Module):
    """Causal self-attention if wanted, attention to the encoder, feed-forward; a residual around each."""

    def __init__(self, config: DecoderConfig, model_dim: int) -> None:
        super().__init__()
        self.attends_to_itself = config.self_attention
        if config.self_attention:
            self.norm_self = nn.LayerNorm(model_dim)
        self.norm_cross = nn.LayerNorm(model_dim)
        if config.self_attention:
            self.self_attention = Attention(model_dim, config.num_heads)
        self.cross_attention = Attention(model_dim, config.num_heads)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(model_dim),
            nn.Linear(model_dim, config.feed_forward_dim),
            nn.GELU(),
            nn.Linear(config.feed_forward_dim, model_dim),
        )
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """(B, U + 1, D) to (B, U + 1, D); `mask` is True where a token may attend, (B, 1, 1 or U + 1, T')."""
        if self.attends_to_itself:
            own = self.norm_self(x)
            x = x + self.dropout(self.self_attention(own, own, None, causal=True))
        x = x + self.dropout(self.cross_attention(self.norm_cross(x), hidden, mask))
        added: Tensor = x + self.dropout(self.feed_forward(x))
        return added


class Attention(nn.Module):
    """Multi-head attention of queries (B, U, D) to a source (B, S, D), without dropout on its weights."""

    def __init__(self, model_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(model_dim, model_dim)
        self.key_value = nn.Linear(model_dim, 2 * model_dim)
        self.project = nn.Linear(model_dim, model_dim)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
        """(B, U, D); `mask` is True where a query may look."""
        query = self.query(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        key, value = self.key_value(source).unflatten(-1, (2, self.num_heads, -1)).unbind(2)
        attended = attend(query, key.transpose(1, 2), value.transpose(1, 2), mask, causal)
        projected: Tensor = self.project(attended.transpose(1, 2).flatten(2))
        return projected


def _sinusoids(length: int, like: Tensor) -> Tensor:
    """Positions (length, D) of Vaswani et al. 2017, section 3.5, halves instead of interleaved."""
    width = like.shape[-1]
    position = torch.arange(length, device=like.device, dtype=torch.float32).unsqueeze(1)
    rate = 10_000.0 ** (-torch.arange(0, width, 2, device=like.device, dtype=torch.float32) / width)
    return torch.cat(((position * rate).sin(), (position * rate).cos()), dim=1).to(like.dtype)
