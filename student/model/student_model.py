"""The whole student as tensors in, tensors out: losses live elsewhere, decoders leave at inference."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from student.config import StudentConfig
from student.errors import StudentError
from student.model.alignment_head import AlignmentHead
from student.model.attention_decoder import AttentionDecoder
from student.model.conformer import Conformer, EncoderOutput
from student.model.features import LogMel
from student.model.outputs import PieceScores, StudentOutput

# Final layer's CTC logits (B, T', num_units) and frame lengths to bool (B, U + 1, T'): where tokens attend
Windows = Callable[[Tensor, Tensor], Tensor]
HARD, SOFT = "hard", "soft"  # who learns the transcript, and who the teacher


class Bert2CTC(nn.Module):
    """Log-mel features, Conformer, one CTC head for every tap, and decoders that only training uses.

    num_units : CTC outputs, blank included (id 0)
    num_pieces : outputs of the decoders, <eos> (or blank) included; None builds no decoder
    """

    def __init__(self, config: StudentConfig, num_units: int, num_pieces: int | None) -> None:
        super().__init__()
        self.config, self.num_units, self.num_pieces = config, num_units, num_pieces
        width = config.conformer.model_dim
        self.features = LogMel(config.features)
        self.encoder = Conformer(config.conformer, config.features.mel_bins)
        self.ctc_head = nn.Linear(width, num_units)
        self.condition = nn.Linear(num_units, width) if config.conformer.self_conditioning else None
        self.decoders = nn.ModuleDict()
        if num_pieces is not None and config.objective.uses_branch:
            names = [self._decoder_name(layer, role) for layer in self.decoded_layers for role in self.roles]
            self.decoders.update({name: _decoder(config, num_pieces) for name in dict.fromkeys(names)})

    @property
    def ctc_layers(self) -> tuple[int, ...]:
        """Layers that CTC trains, final one last."""
        taps = self.config.conformer.taps if self.config.objective.intermediate_ctc_weight > 0 else ()
        return (*taps, self.config.conformer.num_layers)

    @property
    def decoded_layers(self) -> tuple[int, ...]:
        """Layers that a decoder listens to, final one last."""
        taps = self.config.conformer.taps if self.config.objective.branch_on_taps else ()
        return (*taps, self.config.conformer.num_layers)

    @property
    def roles(self) -> tuple[str, ...]:
        """The decoders at each layer: one for both tasks, or one each where both are weighed."""
        weight = self.config.objective.distillation_weight
        if not self.config.decoder.separate or weight in (0, 1):
            return ("",)
        return (HARD, SOFT)

    def forward(
        self,
        features: Tensor,
        frame_lengths: Tensor,
        piece_inputs: Tensor | None = None,
        windows: Windows | None = None,
    ) -> StudentOutput:
        """Logits of every trained layer for normalised log-mel features.

        features : float (B, T, mel_bins)     frame_lengths : int64 (B,), frames of 10 ms
        piece_inputs : int64 (B, U + 1), <eos> (as start) and the transcript's pieces; any valid id as padding
        windows : where each token may attend; None: everywhere
        """
        encoded = self.encode(features, frame_lengths)
        ctc_logits = {layer: self.ctc_logits(encoded.hidden[layer]) for layer in self.ctc_layers}
        scores: dict[str, dict[int, PieceScores]] = {}
        if piece_inputs is not None:
            final = ctc_logits[self.config.conformer.num_layers]
            mask = None if windows is None else windows(final, encoded.frame_lengths)
            scores = {role: self.decode(encoded, piece_inputs, mask, role) for role in self.roles}
        return StudentOutput(
            ctc_logits,
            scores.get(self.roles[0], {}),
            encoded.frame_lengths,
            scores.get(self.roles[-1], {}),
            encoded.hidden,
        )

    def encode(self, features: Tensor, frame_lengths: Tensor) -> EncoderOutput:
        """Hidden states of the taps and the final layer, (B, T', model_dim) each."""
        condition = None if self.condition is None else self._conditioning
        encoded: EncoderOutput = self.encoder(features, frame_lengths, condition)
        return encoded

    def ctc_logits(self, hidden: Tensor) -> Tensor:
        """Unnormalised scores of the units, (B, T', num_units), of any layer's hidden state."""
        logits: Tensor = self.ctc_head(hidden)
        return logits

    def decode(
        self,
        encoded: EncoderOutput,
        piece_inputs: Tensor,
        windows: Tensor | None = None,
        role: str = "",
        layers: tuple[int, ...] = (),
    ) -> dict[int, PieceScores]:
        """The decoders' scores by layer, states (B, U + 1, D), or (B, T', D) of an alignment head.

        windows : bool (B, U + 1, T'), True where a token may attend     role : one of `roles`
        layers : to decode, none means all
        A shared attention decoder runs once, over the layers stacked along the batch.
        """
        if not self.decoders:
            raise StudentError("this model has no decoders; train it with objective.ctc_weight below 1")
        layers = layers or self.decoded_layers
        decoders = {layer: self._decoder_of(layer, role) for layer in layers}
        if self.config.objective.branch == "alignment":
            states = {layer: encoded.hidden[layer] for layer in layers}
        elif self.config.decoder.shared:
            stacked = decoders[layers[0]](
                piece_inputs.repeat(len(layers), 1),
                torch.cat([encoded.hidden[layer] for layer in layers]),
                encoded.frame_lengths.repeat(len(layers)),
                None if windows is None else windows.repeat(len(layers), 1, 1),
            )
            states = dict(zip(layers, stacked.chunk(len(layers)), strict=True))
        else:
            states = {
                layer: decoder(piece_inputs, encoded.hidden[layer], encoded.frame_lengths, windows)
                for layer, decoder in decoders.items()
            }
        weights = {decoder: decoder.output_weight for decoder in set(decoders.values())}
        return {
            layer: PieceScores(states[layer], weights[decoder], decoder.bias)
            for layer, decoder in decoders.items()
        }

    def _decoder_name(self, layer: int, role: str) -> str:
        name = "shared" if self.config.decoder.shared else str(layer)
        return f"{name}_{role}" if role else name

    def _decoder_of(self, layer: int, role: str) -> AttentionDecoder | AlignmentHead:
        decoder = self.decoders[self._decoder_name(layer, role)]
        assert isinstance(decoder, AttentionDecoder | AlignmentHead)
        return decoder

    def _conditioning(self, hidden: Tensor) -> Tensor:
        """What self-conditioning adds to a tap (Nozaki and Komatsu 2021, equation 12)."""
        assert self.condition is not None
        conditioning: Tensor = self.condition(self.ctc_logits(hidden).softmax(dim=-1))
        return conditioning


def _decoder(config: StudentConfig, num_pieces: int) -> AttentionDecoder | AlignmentHead:
    width = config.conformer.model_dim
    if config.objective.branch == "alignment":
        return AlignmentHead(width, num_pieces)
    return AttentionDecoder(config.decoder, width, num_pieces)


def inference_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part of a `Bert2CTC` state that `Bert2CTC(config, num_units, None)` loads."""
    return {name: tensor for name, tensor in state.items() if not name.startswith("decoders.")}
