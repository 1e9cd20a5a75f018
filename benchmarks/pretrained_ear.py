"""Students that hear through a pretrained encoder: what distillation is worth where the ear is good.

    python benchmarks/pretrained_ear.py listen CONFIG --ear WHISPER --store FOLDER
    python benchmarks/pretrained_ear.py student --store FOLDER -- train CONFIG --run-dir RUN ...

Eight hours of speech teach a Conformer from nothing to get every second word wrong, and a language model's
knowledge is of little use there. `listen` writes down what Whisper's encoder (Radford et al. 2022, arXiv
2212.04356; a transformers folder of `openai/whisper-base`) makes of every utterance, once, and `student` is
`bert2ctc` with those frames in place of log-mel energies, and with a stack and a projection in place of the
convolutions that subsample. All else is the product's own: data, cache, objective, trainer, decoding. The
ear hears each utterance at one speed: `augmentation.speed_factors=[1.0]`, and `features.mel_bins=256`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from options import FILE_OR_FOLDER, PATH
from rich.progress import track
from torch import Tensor, nn

import pipeline.processes as processes
import student.model.conformer as conformer_room
import student.model.student_model as model_room
from pipeline.config import load_config
from pipeline.corpus.prepared import sound_preparation
from pipeline.paths import roots_from
from student.config import ConformerConfig, FeatureConfig
from student.data.dataset import read_audio
from student.data.manifest import read_manifest
from student.frames import frames_after_convolutions, frames_of
from student.model.dropout import Dropout
from student.model.features import LogMel
from student.training.device import choose_device
from teacher_cache.common.cores import num_cores
from teacher_cache.common.files import write_whole

EAR_FRAME_SAMPLES = 320  # 20 ms of 16 kHz
LONGEST_SAMPLES = 480_000  # 30 s, which is all that Whisper has positions for
INDEX, FRAMES, WIDTH = "index.json", "frames.f16", 512  # of Whisper base


def key_of(samples: np.ndarray) -> str:
    """The name of an utterance by its int16 samples."""
    return hashlib.blake2b(np.ascontiguousarray(samples).tobytes(), digest_size=16).hexdigest()


class StoredFeatures(LogMel):
    """The ear's frames in place of log-mel energies: half of each 20 ms frame for each 10 ms."""

    def __init__(self, folder: Path, config: FeatureConfig) -> None:
        super().__init__(FeatureConfig())  # its mel scale is not asked
        self.config = config
        self.mean, self.deviation = torch.zeros(WIDTH // 2), torch.ones(WIDTH // 2)
        self.index: dict[str, list[int]] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        # "c": mapped, not read, and what would be written to it would stay in memory
        self.halves = torch.from_numpy(np.memmap(folder / FRAMES, np.float16, "c").reshape(-1, WIDTH // 2))

    def log_energies(self, waveforms: Tensor, sample_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, WIDTH / 2) and frame lengths; raises KeyError for what the ear has not heard."""
        device, lengths = waveforms.device, frames_of(sample_lengths, self.config)
        if self.halves.device != device:
            self.halves = self.halves.to(device)
        energies = torch.zeros(len(waveforms), int(lengths.max()), WIDTH // 2, device=device)
        for row, (waveform, samples) in enumerate(zip(waveforms.cpu(), sample_lengths.tolist(), strict=True)):
            heard = (waveform[:samples] * 32768).round().to(torch.int16).numpy()
            start, count = self.index[key_of(heard)]
            length = min(int(lengths[row]), 2 * count)
            energies[row, :length] = self.halves[2 * start : 2 * start + length]
        return energies, lengths


class Stack(nn.Module):
    """Four frames of 10 ms side by side, projected: (B, T, F) to (B, T', D), T' as convolutions have it."""

    def __init__(self, config: ConformerConfig, mel_bins: int) -> None:
        super().__init__()
        self.factor = config.subsampling
        self.project = nn.Linear(self.factor * mel_bins, config.model_dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, features: Tensor) -> Tensor:
        """No frame sees another's padding, for none is shared."""
        num_frames = frames_after_convolutions(features.shape[1], self.factor)
        stacked = features[:, : self.factor * num_frames].unflatten(1, (num_frames, self.factor)).flatten(2)
        dropped: Tensor = self.dropout(self.project(stacked))
        return dropped


def install(store: Path) -> None:
    """Students of this process, and of commands that it starts, hear from now on by what the store holds."""
    model_room.LogMel = partial(StoredFeatures, store)  # type: ignore[misc, assignment]
    conformer_room.Subsampling = Stack  # type: ignore[misc, assignment]
    program = [sys.executable, __file__, "student", "--store", str(store.absolute()), "--"]
    # Before anybody else imports them: commands of a chain, and ranks of one command
    processes.program_of = lambda arguments: [*program, *arguments, "--json"]
    processes.launch_ranks = partial(processes.launch_ranks, program=program)


@click.group()
def main() -> None:
    """Students that hear through Whisper's encoder."""


@main.command()
@click.argument("config")
@click.option("--ear", type=FILE_OR_FOLDER, required=True, help="a transformers folder of Whisper base")
@click.option("--store", type=PATH, required=True, help="written: what it hears, 2 GB for 11 hours")
@click.option("--device", default="auto", show_default=True)
def listen(config: str, ear: Path, store: Path, device: str) -> None:
    """Encode every utterance of CONFIG's prepared splits, each by itself and without padding."""
    from transformers import WhisperFeatureExtractor, WhisperModel

    experiment, roots, log_mel = load_config(config), roots_from({}), WhisperFeatureExtractor()
    encoder = WhisperModel.from_pretrained(ear, local_files_only=True, use_safetensors=True).encoder
    encoder.eval().to(choose_device(device))
    folder = sound_preparation(experiment, roots)
    utterances = [one for split in experiment.data.splits for one in read_manifest(folder / f"{split}.jsonl")]
    store.mkdir(parents=True, exist_ok=True)
    (store / INDEX).unlink(missing_ok=True)  # written last: frames without it are of a listening cut short
    index: dict[str, tuple[int, int]] = {}
    written = 0
    with (store / FRAMES).open("wb") as file, ThreadPoolExecutor(num_cores()) as readers:
        read = readers.map(lambda one: read_audio(roots.data / one.audio, 16_000), utterances)
        for samples in track(read, description="listening", total=len(utterances)):
            count = 0
            for start in range(0, len(samples), LONGEST_SAMPLES):
                piece = samples[start : start + LONGEST_SAMPLES].astype(np.float32) / 32768
                frames = encoded(encoder, log_mel, piece)
                file.write(frames.cpu().numpy().astype(np.float16).tobytes())
                count += len(frames)
            index[key_of(samples)] = (written, count)
            written += count
    write_whole(store / INDEX, json.dumps(index))
    click.echo(f"{len(index):,} utterances, {written:,} frames of 20 ms in {store}")


@torch.inference_mode()
def encoded(encoder: nn.Module, log_mel, samples: np.ndarray) -> Tensor:
    """(W, WIDTH), W a frame of 20 ms each, of at most 30 s; Whisper's own encoder, with as many positions."""
    whole = -(-len(samples) // EAR_FRAME_SAMPLES) * EAR_FRAME_SAMPLES
    padded = np.pad(samples, (0, whole - len(samples)))
    mel = log_mel(padded, sampling_rate=16_000, return_tensors="pt", padding="do_not_pad").input_features
    device = encoder.conv1.weight.device
    with torch.autocast(device.type, torch.bfloat16):
        x = nn.functional.gelu(encoder.conv1(mel.to(device)))
        x = nn.functional.gelu(encoder.conv2(x)).transpose(1, 2)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        for layer in encoder.layers:
            out = layer(x, None)
            x = out[0] if isinstance(out, tuple) else out
        return encoder.layer_norm(x)[0].float()


@main.command(context_settings={"ignore_unknown_options": True})
@click.option("--store", type=FILE_OR_FOLDER, required=True)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def student(store: Path, arguments: tuple[str, ...]) -> None:
    """`bert2ctc ARGUMENTS`, with the ear's frames in place of log-mel energies."""
    install(store)
    from pipeline.__main__ import main as bert2ctc

    sys.argv = ["bert2ctc", *arguments]
    bert2ctc()


if __name__ == "__main__":
    main()
