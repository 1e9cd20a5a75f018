"""A trained model ready to be used: encoder and CTC head, no decoder, greedy decoding."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from student.config import StudentConfig
from student.data.audio import Samples, check_recording, read_recording, samples_at_rate
from student.data.units import Units
from student.decoding.greedy import transcripts_of
from student.decoding.interface import Decoder, texts_of
from student.decoding.names import GREEDY
from student.errors import StudentError
from student.frames import frames_after_subsampling
from student.inference.averaging import Average, inference_checkpoint
from student.inference.export import inference_model, is_exported, read_exported
from student.inference.speed import ENCODER, Stopwatch
from student.model.outputs import StudentOutput
from student.model.student_model import Bert2CTC, inference_state
from student.training.device import choose_device, choose_precision, describe_device

GREEDY_ALONE: Mapping[str, Decoder | None] = MappingProxyType({GREEDY: None})


@dataclass(frozen=True, slots=True)
class Recognised:
    """Texts of several utterances, in their order.

    final_layer : its number     rows : the final layer's, by row of results     taps : the others', by layer
    """

    final_layer: int
    rows: Mapping[str, list[str]]
    taps: Mapping[int, list[str]]

    @classmethod
    def of_nothing(cls, layers: Collection[int], rows: Iterable[str], count: int) -> Recognised:
        """Empty texts of so many utterances."""
        final = max(layers)
        taps = {layer: [""] * count for layer in layers if layer != final}
        return cls(final, {row: [""] * count for row in rows}, taps)

    def put(self, places: Sequence[int], part: Recognised) -> None:
        """Write down a part's texts, in its order, at these places."""
        pairs = [(self.rows[row], texts) for row, texts in part.rows.items()]
        pairs += [(self.taps[layer], texts) for layer, texts in part.taps.items()]
        for whole, texts in pairs:
            for place, text in zip(places, texts, strict=True):
                whole[place] = text

    def by_layer(self, row: str) -> dict[int, list[str]]:
        """By every layer that CTC trained, the final one by a row's decoder, which comes last."""
        return {**self.taps, self.final_layer: self.rows[row]}


@dataclass(frozen=True, slots=True)
class Recogniser:
    """Waveforms to text.

    source : the checkpoint file or exported folder that it came from
    description : source, step, device and precision in a line
    """

    model: Bert2CTC
    units: Units
    config: StudentConfig
    device: torch.device
    dtype: torch.dtype
    source: Path
    description: str

    def transcribe(self, audio: Path | str | Samples, sample_rate_hz: int | None = None) -> str:
        """What is said in a recording: the path of a file, or samples (S,) or (S, channels) at a rate.

        sample_rate_hz : of samples, default the model's; a file knows its own
        Raises StudentError for what cannot be decoded, holds NaN, or lasts longer than MAX_SECONDS.
        """
        own_rate = self.config.features.sample_rate_hz
        if isinstance(audio, (str, Path)):
            if sample_rate_hz is not None:
                raise StudentError(f"{audio}: a file knows its rate; leave out sample_rate_hz")
            check_recording(Path(audio))
            return self.text_of(read_recording(Path(audio), own_rate))
        return self.text_of(samples_at_rate(audio, sample_rate_hz or own_rate, own_rate))

    def text_of(self, waveform: Tensor) -> str:
        """The final layer's text of one waveform, float32 (S,) at the model's rate."""
        heard = self.transcripts(waveform.unsqueeze(0), torch.tensor([len(waveform)]))
        return heard.rows[GREEDY][0]

    @torch.inference_mode()
    def transcripts(
        self,
        waveforms: Tensor,
        sample_lengths: Tensor,
        stopwatch: Stopwatch | None = None,
        decoders: Mapping[str, Decoder | None] = GREEDY_ALONE,
    ) -> Recognised:
        """Texts of each waveform, from one pass of the encoder: by each row's decoder, and by the taps.

        waveforms : float32 (B, S) in -1..1     sample_lengths : int64 (B,)
        stopwatch : gets the seconds of the encoder, and by row those of decoding the final layer
        decoders : row -> decoder of the final layer, None: greedy; taps are decoded greedily
        The text of a waveform too short for one encoder frame is empty.
        """
        stopwatch = stopwatch or Stopwatch(self.device)
        lengths = sample_lengths.tolist()
        features, subsampling = self.config.features, self.config.conformer.subsampling
        is_long_enough = [frames_after_subsampling(length, features, subsampling) > 0 for length in lengths]
        if not all(is_long_enough):
            whole = Recognised.of_nothing(self.model.ctc_layers, decoders, len(lengths))
            if heard := [place for place, is_heard in enumerate(is_long_enough) if is_heard]:
                whole.put(
                    heard, self.transcripts(waveforms[heard], sample_lengths[heard], stopwatch, decoders)
                )
            return whole
        if not lengths:
            return Recognised.of_nothing(self.model.ctc_layers, decoders, 0)
        with stopwatch.measured(ENCODER):
            output = self.forward(waveforms, sample_lengths)
        final, by_row = max(output.ctc_logits), {}
        for row, decoder in decoders.items():
            with stopwatch.measured(row):
                if decoder is None:
                    by_row[row] = transcripts_of(output.ctc_logits[final], output.frame_lengths, self.units)
                else:
                    by_row[row] = texts_of(decoder.decode(output.ctc_logits[final], output.frame_lengths))
        taps = {
            layer: transcripts_of(logits, output.frame_lengths, self.units)
            for layer, logits in output.ctc_logits.items()
            if layer != final
        }
        return Recognised(final, by_row, taps)

    def final_logits(self, waveforms: Tensor, sample_lengths: Tensor) -> list[Tensor]:
        """The final layer's logits of each waveform, float32 (T, V) on the CPU, (0, V) of a too short one."""
        features, subsampling = self.config.features, self.config.conformer.subsampling
        lengths = sample_lengths.tolist()
        heard = [
            row for row, n in enumerate(lengths) if frames_after_subsampling(n, features, subsampling) > 0
        ]
        found = [torch.zeros(0, self.units.size)] * len(lengths)
        if heard:
            output = self.forward(waveforms[heard], sample_lengths[heard])
            logits = output.ctc_logits[max(output.ctc_logits)].float().cpu()
            for row, own, length in zip(heard, logits, output.frame_lengths.tolist(), strict=True):
                found[row] = own[:length].clone()
        return found

    @torch.inference_mode()
    def forward(self, waveforms: Tensor, sample_lengths: Tensor) -> StudentOutput:
        """CTC logits by layer and the frames of each waveform; none may be shorter than a frame."""
        heard, frame_lengths = self.model.features(waveforms.to(self.device), sample_lengths.to(self.device))
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            output: StudentOutput = self.model(heard, frame_lengths)
        return output


def load_recogniser(run: Path, device: str = "auto", average: Average | None = None) -> Recogniser:
    """The model of a run folder (final, else best, else last checkpoint), a checkpoint file or an export.

    average : the mean of several checkpoints of the run folder instead
    """
    if is_exported(run):
        return load_model(run, device)
    checkpoint, source = inference_checkpoint(run, average)
    state = inference_state(dict(checkpoint.model))
    return _recogniser(checkpoint.config, state, checkpoint.units_model, checkpoint.step, source, device)


def load_model(folder: Path | str, device: str = "auto") -> Recogniser:
    """The recogniser of a folder that `bert2ctc export` wrote.

    Needs torch, torchaudio, sentencepiece, soundfile and numpy, no other package.
    """
    model = read_exported(Path(folder))
    return _recogniser(model.config, model.weights, model.units_model, model.step, str(folder), device)


def _recogniser(
    config: StudentConfig, state: dict[str, Tensor], units_model: bytes, step: int, source: str, device: str
) -> Recogniser:
    chosen = choose_device(device)
    precision = choose_precision(config.trainer.precision, chosen)
    model, units = inference_model(config, state, units_model, source)
    model.to(chosen).eval()
    description = f"{source}, step {step}, on {describe_device(chosen)} in {precision.reason}"
    return Recogniser(model, units, config, chosen, precision.dtype, Path(source), description)
