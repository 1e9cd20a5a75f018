"""A trained model ready to be used: encoder and CTC head, no decoder, greedy decoding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from student.checkpoint import load_checkpoint, model_path
from student.config import StudentConfig
from student.decoding import greedy_ctc_decode
from student.device import choose_device, choose_precision, describe_device
from student.features import frames_after_subsampling
from student.model import Bert2CTC, inference_state
from student.units import Units


@dataclass(frozen=True, slots=True)
class Recogniser:
    """Waveforms to text.

    source : the checkpoint file that it came from     description : file, step, device, precision in a line
    """

    model: Bert2CTC
    units: Units
    config: StudentConfig
    device: torch.device
    dtype: torch.dtype
    source: Path
    description: str

    @torch.inference_mode()
    def transcripts(self, waveforms: Tensor, sample_lengths: Tensor) -> dict[int, list[str]]:
        """Text of each waveform by every layer that CTC trained, the final layer's last.

        waveforms : float32 (B, S) in -1..1     sample_lengths : int64 (B,)
        A waveform too short for one encoder frame is heard as nothing.
        """
        lengths = sample_lengths.tolist()
        heard = [frames_after_subsampling(length, self.config.features) > 0 for length in lengths]
        if not all(heard):
            rows = torch.tensor(heard)
            return {
                layer: _with_gaps(texts, heard)
                for layer, texts in self.transcripts(waveforms[rows], sample_lengths[rows]).items()
            }
        if not lengths:
            return {layer: [] for layer in self.model.ctc_layers}
        features, frame_lengths = self.model.features(
            waveforms.to(self.device), sample_lengths.to(self.device)
        )
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            output = self.model(features, frame_lengths)
        return {
            layer: transcripts_of(logits, output.frame_lengths, self.units)
            for layer, logits in output.ctc_logits.items()
        }


def _with_gaps(texts: list[str], heard: list[bool]) -> list[str]:
    """The texts in the places that were heard, "" in the others."""
    remaining = iter(texts)
    return [next(remaining) if is_heard else "" for is_heard in heard]


def transcripts_of(logits: Tensor, frame_lengths: Tensor, units: Units) -> list[str]:
    """Greedy texts of CTC logits (B, T', num_units)."""
    return [units.decode(ids) for ids in greedy_ctc_decode(logits, frame_lengths)]


def load_recogniser(run: Path, device: str = "auto") -> Recogniser:
    """The model of a run folder (final, else best, else last checkpoint) or of a checkpoint file."""
    source = model_path(run)
    checkpoint = load_checkpoint(source)
    place = choose_device(device)
    precision = choose_precision(checkpoint.config.trainer.precision, place)
    units = Units(checkpoint.units_model)
    model = Bert2CTC(checkpoint.config, units.size, None)
    model.load_state_dict(inference_state(dict(checkpoint.model)))
    model.to(place).eval()
    description = f"{source}, step {checkpoint.step}, on {describe_device(place)} in {precision.reason}"
    return Recogniser(model, units, checkpoint.config, place, precision.dtype, source, description)
