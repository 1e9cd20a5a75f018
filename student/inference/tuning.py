"""A fused decoder's weights, searched on dev: logits are computed once, decoders try them many times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from student.data.dataset import SpeechDataset, load_batches
from student.data.manifest import Utterance
from student.data.sampler import batches_of
from student.decoding.greedy import GreedyDecoder
from student.decoding.interface import Decoder, texts_of
from student.decoding.weight_search import Axis, Found, search_weights
from student.decoding.weights import FusionWeights, estimated_log_prior
from student.inference.recogniser import Recogniser
from student.metrics import ErrorCounts, count_errors
from teacher_cache.common.progress import progress

_LANGUAGE = Axis(name="language", first=0.25, step=0.25, count=5, floor=0.0)
UNIT_AXES = (
    _LANGUAGE,
    Axis(name="insertion", first=-0.5, step=0.5, count=4),
    Axis(name="prior", first=0.0, step=0.1, count=3, floor=0.0),
)
WORD_AXES = (
    Axis(name="language", first=0.5, step=0.5, count=4, floor=0.0),
    Axis(name="insertion", first=-1.0, step=1.0, count=4),
)
_BATCH_FRAMES = 4096  # padded, of a batch that is decoded


@dataclass(frozen=True, slots=True)
class HeardSplit:
    """Utterances and the final layer's logits of each, float32 (T, V) on the CPU, (0, V) of none heard."""

    name: str
    utterances: Sequence[Utterance]
    logits: Sequence[Tensor]

    @property
    def references(self) -> list[str]:
        """What was said."""
        return [utterance.text for utterance in self.utterances]

    def batches(self, device: torch.device) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """(places, logits (B, T, V), frame lengths (B,)) of neighbours in length, the shortest first."""
        order = sorted(range(len(self.logits)), key=lambda place: len(self.logits[place]))
        batch: list[int] = []
        for place in order:
            if batch and (len(batch) + 1) * len(self.logits[place]) > _BATCH_FRAMES:
                yield self._batch(batch, device)
                batch = []
            batch.append(place)
        if batch:
            yield self._batch(batch, device)

    def _batch(self, places: list[int], device: torch.device) -> tuple[list[int], Tensor, Tensor]:
        rows = [self.logits[place] for place in places]
        lengths = torch.tensor([len(row) for row in rows], device=device)
        return places, pad_sequence(rows, batch_first=True).to(device), lengths

    def errors(self, decoder: Decoder, device: torch.device) -> ErrorCounts:
        """Of the decoder's best readings."""
        texts = [""] * len(self.logits)
        for places, logits, lengths in self.batches(device):
            for place, text in zip(places, texts_of(decoder.decode(logits, lengths)), strict=True):
                texts[place] = text
        return count_errors(self.references, texts)


def hear(
    recogniser: Recogniser, utterances: Sequence[Utterance], data_root: Path, name: str = "dev"
) -> HeardSplit:
    """The utterances' logits, each computed once; in the order of the utterances."""
    dataset = SpeechDataset(
        utterances=utterances,
        unit_ids=[[]] * len(utterances),
        data_root=data_root,
        sample_rate_hz=recogniser.config.features.sample_rate_hz,
    )
    trainer = recogniser.config.trainer
    batches = batches_of(dataset.seconds(0), trainer.micro_batch_seconds)
    keys = [[(0, int(index)) for index in batch] for batch in batches]
    logits = [torch.zeros(0, recogniser.units.size)] * len(utterances)
    with progress(f"hearing {name}", total=len(utterances), unit="utterances") as advance:
        for batch in load_batches(dataset, keys, trainer.data_workers):
            for index, row in zip(
                batch.indices, recogniser.final_logits(batch.waveforms, batch.sample_lengths), strict=True
            ):
                logits[index] = row
            advance(len(batch.indices))
    return HeardSplit(name, utterances, logits)


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a search found; greedy : without any weights, on the same logits."""

    found: Found
    greedy: ErrorCounts
    errors: ErrorCounts


def tune(
    make: Callable[[FusionWeights], Decoder],
    axes: Sequence[Axis],
    heard: HeardSplit,
    recogniser: Recogniser,
    say: Callable[[str], None] = lambda line: None,
) -> Tuned:
    """The weights of `make`'s decoder with the lowest WER, of equals the lowest CER, then the smallest.

    say : gets a line for each weights that were tried
    """
    errors: dict[FusionWeights, ErrorCounts] = {}

    def measure(weights: FusionWeights) -> tuple[float, ...]:
        errors[weights] = counted = heard.errors(make(weights), recogniser.device)
        values = ", ".join(f"{axis.name} {getattr(weights, axis.name):g}" for axis in axes)
        say(f"{values}: WER {100 * counted.wer:.2f} %, CER {100 * counted.cer:.2f} %")
        return counted.wer, counted.cer

    start = FusionWeights(language=axes[0].values()[len(axes[0].values()) // 2])
    found = search_weights(measure, axes, start)
    greedy = heard.errors(GreedyDecoder(recogniser.units), recogniser.device)
    return Tuned(found, greedy, errors[found.weights])


def prior_of(heard: HeardSplit) -> Tensor:
    """The label prior of the student on a split."""
    cpu = torch.device("cpu")
    return estimated_log_prior((logits, lengths) for _, logits, lengths in heard.batches(cpu))
