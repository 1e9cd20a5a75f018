"""What `train_step.py` times: batches of LibriSpeech's shape, the students, their rival, and the floor."""

from __future__ import annotations

import itertools
import string
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from student.config import StudentConfig
from student.data.batch import DecoderBatch, TeacherBatch, TrainingBatch
from student.data.sampler import batches_of
from student.frames import frames_after_convolutions
from student.loss.losses import ctc_loss
from student.loss.objective import compute_objective
from student.model.conformer import Subsampling
from student.model.student_model import Bert2CTC
from student.training.optimisation.optimiser import build_optimiser
from teacher_cache.config import CacheConfig
from teacher_cache.passages import Passage
from teacher_cache.teacher.masked_teacher import MaskedTeacher

FRAMES_PER_SECOND, UNITS_PER_SECOND, PIECES_PER_SECOND = 100, 5.0, 3.0
CTC: dict[str, Any] = {"ctc_weight": 1.0, "distillation_weight": 0.0}
MEMBERS: dict[str, dict[str, Any]] = {
    "ctc": CTC | {"intermediate_ctc_weight": 0.0},
    "interctc": CTC,
    "self_conditioned": CTC,
    "aed_hard": {"branch_on_taps": False, "distillation_weight": 0.0},
    "interaed_hard": {"distillation_weight": 0.0},
    "aed_kd": {"branch_on_taps": False},
    "interaed_kd": {},
    "inter_alignment_kd": {"branch": "alignment", "distillation_weight": 0.5},
    "windowed_hard": {"distillation_weight": 0.0},
    "windowed_kd": {},
    "windowed_kd_alone": {"distillation_weight": 1.0},
}
RIVALS = {"torchaudio": 0.1, "torchaudio_no_attention_dropout": 0.0}


def member_config(config: StudentConfig, name: str) -> StudentConfig:
    """A member of the family, otherwise as `config` has it."""
    conformer, decoder = config.conformer, config.decoder
    if name == "self_conditioned":
        conformer = replace(conformer, self_conditioning=True)
    is_windowed = name.startswith("windowed")
    decoder = replace(
        decoder,
        history="none" if is_windowed else "full",
        attention="aligned" if is_windowed else "free",
    )
    objective = replace(config.objective, **MEMBERS[name])
    return replace(config, conformer=conformer, decoder=decoder, objective=objective)


def durations(count: int, seed: int) -> np.ndarray:
    """Seconds distributed much as train-clean-100: mean about 12.7, most between 11 and 16.5."""
    return 1.5 + 15 * np.random.default_rng(seed).beta(4.0, 1.35, count)


def make_batches(
    config: StudentConfig, count: int, num_units: int, num_pieces: int, device: torch.device, seed: int
) -> list[tuple[float, TrainingBatch]]:
    """Bucketed batches of noise with labels at speech's rates, and the audio in each, in seconds."""
    wanted = config.trainer.micro_batch_seconds
    seconds = durations(max(64, int(2 * count * wanted / 12)), seed)
    made = []
    for indices in batches_of(seconds, wanted)[:count]:
        batch = make_batch(config, seconds[indices], num_units, num_pieces, seed + len(made))
        made.append((float(seconds[indices].sum()), batch.to(device)))
    return made


def make_batch(
    config: StudentConfig, seconds: np.ndarray, num_units: int, num_pieces: int, seed: int
) -> TrainingBatch:
    """Utterances of these durations with everything that any member asks for."""
    random = torch.Generator().manual_seed(seed)
    frames = torch.from_numpy((seconds * FRAMES_PER_SECOND).astype(np.int64))
    features = torch.randn(len(frames), int(frames.max()), config.features.mel_bins, generator=random)
    features[torch.arange(features.shape[1]) >= frames.unsqueeze(1)] = 0
    unit_lengths = torch.from_numpy((seconds * UNITS_PER_SECOND).astype(np.int64)).clamp(min=1)
    units = torch.randint(1, num_units, (len(frames), int(unit_lengths.max())), generator=random)
    lengths = torch.from_numpy((seconds * PIECES_PER_SECOND).astype(np.int64)).clamp(min=1)
    pieces = [torch.randint(1, num_pieces, (int(length),), generator=random) for length in lengths]
    end = torch.zeros(1, dtype=torch.int64)
    inputs = pad_sequence([torch.cat((end, row)) for row in pieces], batch_first=True)
    targets = pad_sequence([torch.cat((row, end)) for row in pieces], batch_first=True, padding_value=-100)
    shape = (len(frames), int(lengths.max()), config.objective.top_k)
    indices = torch.randint(1, num_pieces, shape, generator=random)
    logprobs = torch.randn(*shape[:2], shape[2] + 1, generator=random).log_softmax(-1)
    padding = torch.arange(shape[1]) >= lengths.unsqueeze(1)
    teacher = TeacherBatch(
        indices, logprobs[..., 1:].masked_fill(padding.unsqueeze(2), -torch.inf), logprobs[..., 0]
    )
    # a unit for each token, so far as there are units
    start = torch.minimum(torch.arange(inputs.shape[1]), (unit_lengths - 1).unsqueeze(1))
    spans = torch.stack([start, start + 1], dim=2)
    decoder = DecoderBatch(inputs, targets, lengths, teacher, spans)
    return TrainingBatch(features, frames, units, unit_lengths, decoder)


def batch_for(batch: TrainingBatch, config: StudentConfig) -> TrainingBatch:
    """The batch without what the member does not read."""
    objective = config.objective
    if not objective.uses_branch:
        return replace(batch, decoder=None)
    decoder = batch.decoder
    assert decoder is not None
    if not objective.uses_teacher:
        decoder = replace(decoder, teacher=None)
    if config.decoder.attention == "free":
        decoder = replace(decoder, unit_spans=None)
    return replace(batch, decoder=decoder)


class Rival(nn.Module):
    """torchaudio's Conformer behind our subsampling, which it lacks, and an output layer: CTC alone."""

    def __init__(self, config: StudentConfig, num_units: int, attention_dropout: float) -> None:
        super().__init__()
        from torchaudio.models import Conformer

        shape = config.conformer
        self.factor, self.subsampling = shape.subsampling, Subsampling(shape, config.features.mel_bins)
        self.conformer = Conformer(
            shape.model_dim,
            shape.num_heads,
            shape.feed_forward_dim,
            shape.num_layers,
            shape.conv_kernel_frames,
            dropout=shape.dropout,
        )
        for layer in self.conformer.conformer_layers:
            layer.self_attn.dropout = min(attention_dropout, shape.dropout)
        self.head = nn.Linear(shape.model_dim, num_units)

    def loss(self, batch: TrainingBatch) -> Tensor:
        """CTC over the utterances."""
        lengths = frames_after_convolutions(batch.frame_lengths, self.factor)
        hidden, lengths = self.conformer(self.subsampling(batch.features), lengths)
        return ctc_loss(self.head(hidden), lengths, batch.units, batch.unit_lengths) / len(lengths)


def optimiser_step(
    model: nn.Module, loss_of: Callable[[TrainingBatch], Tensor], config: StudentConfig, dtype: torch.dtype
) -> Callable[[TrainingBatch], None]:
    """One whole training step of a model: forward, backward, clipping, AdamW."""
    optimiser = build_optimiser(model, config.trainer)

    def step(batch: TrainingBatch) -> None:
        with torch.autocast(batch.features.device.type, dtype, enabled=dtype != torch.float32):
            loss = loss_of(batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.trainer.gradient_clip or inf)
        optimiser.step()

    return step


def member_step(
    name: str, config: StudentConfig, sizes: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> tuple[nn.Module, Callable[[TrainingBatch], None]]:
    """Model and training step of a member or a rival; sizes : units and pieces."""
    torch.manual_seed(0)
    if name in RIVALS:
        rival = Rival(config, sizes[0], RIVALS[name]).to(device).train()
        return rival, optimiser_step(rival, rival.loss, config, dtype)
    own = member_config(config, name)
    model = Bert2CTC(own, sizes[0], sizes[1] if own.objective.uses_branch else None).to(device).train()

    def loss_of(batch: TrainingBatch) -> Tensor:
        return compute_objective(model, batch_for(batch, own), own, len(batch.features)).loss

    return model, optimiser_step(model, loss_of, own, dtype)


def necessary_operations(config: StudentConfig, num_units: int, batch: TrainingBatch) -> float:
    """Operations of one plain CTC step that no exact method leaves out: real frames, forward and backward.

    A product of the forward pass has two in the backward pass; the first convolution needs one.
    """
    shape, bins = config.conformer, config.features.mel_bins
    width, inner, channels = shape.model_dim, shape.feed_forward_dim, shape.subsampling_channels
    factors = [2**power for power in range(1, shape.subsampling.bit_length())]
    mixture = 9 * channels * channels if shape.subsampling == 4 else (9 + channels) * channels
    last_bins = frames_after_convolutions(bins, shape.subsampling)
    total = 0.0
    for frames in batch.frame_lengths.tolist():
        grids = [frames_after_convolutions(frames, f) * frames_after_convolutions(bins, f) for f in factors]
        length = frames_after_convolutions(frames, shape.subsampling)
        block = 4 * width * inner + 7 * width * width + shape.conv_kernel_frames * width + 2 * length * width
        head = width * num_units + channels * last_bins * width
        convolved = mixture * sum(grids[1:])
        total += 6.0 * (length * (shape.num_layers * block + head) + convolved)
        total += 4.0 * 9 * channels * grids[0]
    return total


def matrix_rate(config: StudentConfig, rows: int, device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of the blocks' linear layers, forward and backward, at a batch's own shapes."""
    width, inner = config.conformer.model_dim, config.conformer.feed_forward_dim
    shapes = [(inner, width), (width, inner)] * 2 + [(k * width, width) for k in (3, 1, 2, 1)]
    layers = [
        [
            (torch.randn(o, i, device=device).to(dtype), *_operands(rows, i, o, device, dtype))
            for o, i in shapes
        ]
        for _ in range(config.conformer.num_layers)
    ]

    def once() -> None:
        for weight, entering, gradient in itertools.chain(*layers):
            functional.linear(entering, weight)
            gradient @ weight
            gradient.t() @ entering

    once()
    synchronise(device)
    done, started = 0, time.perf_counter()
    while done < 2 or time.perf_counter() - started < 1.0:
        once()
        synchronise(device)
        done += 1
    operations = 6.0 * rows * sum(o * i for o, i in shapes) * len(layers)
    return done * operations / (time.perf_counter() - started)


def _operands(
    rows: int, inputs: int, outputs: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    return (
        torch.randn(rows, inputs, device=device).to(dtype),
        torch.randn(rows, outputs, device=device).to(dtype),
    )


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def online_teacher(folder: Path, device: torch.device, dtype: torch.dtype) -> Callable[[TrainingBatch], None]:
    """Scores a batch's tokens with a random BERT-base, as a training without a cache would at every step."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    words = ("".join(letters) for letters in itertools.product(string.ascii_lowercase, repeat=4))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *itertools.islice(words, 30_522 - len(special))]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=True).save_pretrained(folder)
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(vocab_size=len(pieces))).save_pretrained(folder)
    teacher = MaskedTeacher.load(folder, str(dtype).removeprefix("torch."), str(device))
    config = CacheConfig(dtype=str(dtype).removeprefix("torch."))

    def score(batch: TrainingBatch) -> None:
        assert batch.decoder is not None
        texts = [_text(pieces, len(special), row) for row in _rows(batch.decoder)]
        encoded = teacher.tokenizer.encode([Passage("", text, "") for text in texts])
        wanted = np.ones(sum(passage.own_length for passage in encoded), dtype=bool)
        teacher.score(encoded, wanted, config, 4096 if device.type == "cpu" else 65_536)

    return score


def _rows(decoder: DecoderBatch) -> Sequence[Sequence[int]]:
    inputs = decoder.piece_inputs.tolist()
    return [row[1 : 1 + length] for row, length in zip(inputs, decoder.token_lengths.tolist(), strict=True)]


def _text(pieces: Sequence[str], offset: int, row: Sequence[int]) -> str:
    return " ".join(pieces[offset + index] for index in row)
