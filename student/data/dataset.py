"""From manifest entries to padded batches; decoded audio stays in memory while it fits."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from student.config import AugmentationConfig
from student.data.augmentation import change_speed, speed_factor, utterance_generator
from student.data.manifest import Utterance
from student.data.workers import obey_sigterm_of, start_fork_server
from student.errors import StudentError
from teacher_cache.common.sizes import MEBIBYTE

Samples = npt.NDArray[np.int16]
Key = tuple[int, int]  # (epoch, index of the utterance)
NORMALISATION_UTTERANCES = 1000


@dataclass(frozen=True, slots=True)
class SpeechBatch:
    """Utterances that go through the model together.

    epoch : that of its keys     indices : into the dataset's utterances
    waveforms : float32 (B, S), -1..1, zeros as padding     sample_lengths : int64 (B,)
    units : int64 (B, L), zeros as padding     unit_lengths : int64 (B,)
    """

    epoch: int
    indices: tuple[int, ...]
    waveforms: Tensor
    sample_lengths: Tensor
    units: Tensor
    unit_lengths: Tensor


@dataclass(frozen=True, slots=True)
class _Item:
    key: Key
    waveform: Tensor
    units: Tensor


@dataclass(kw_only=True)
class SpeechDataset(Dataset[_Item]):
    """Utterances by (epoch, index); what an epoch takes of one depends on (seed, epoch, id) alone.

    unit_ids : CTC units of every utterance     augmentation : None leaves the speed alone
    memory_megabytes : decoded audio kept, per process, in MiB
    """

    utterances: Sequence[Utterance]
    unit_ids: Sequence[Sequence[int]]
    data_root: Path
    sample_rate_hz: int
    augmentation: AugmentationConfig | None = None
    seed: int = 0
    memory_megabytes: float = 0
    _kept: dict[int, Samples] = field(default_factory=dict)
    _kept_bytes: int = 0

    def __len__(self) -> int:
        return len(self.utterances)

    def __getstate__(self) -> dict[str, object]:
        """What a worker process receives: everything but the audio in memory."""
        return self.__dict__ | {"_kept": {}, "_kept_bytes": 0}

    def __getitem__(self, key: Key) -> _Item:
        epoch, index = key
        waveform = torch.from_numpy(self.samples(index).astype(np.float32) / 32768)
        waveform = change_speed(waveform, self.speed_factor(epoch, index))
        return _Item(key, waveform, torch.tensor(self.unit_ids[index], dtype=torch.int64))

    def samples(self, index: int) -> Samples:
        """Decoded audio, int16 (S,), from memory where it was kept."""
        if index in self._kept:
            return self._kept[index]
        samples = read_audio(self.data_root / self.utterances[index].audio, self.sample_rate_hz)
        if self._kept_bytes + samples.nbytes <= self.memory_megabytes * MEBIBYTE:
            self._kept[index] = samples
            self._kept_bytes += samples.nbytes
        return samples

    def speed_factor(self, epoch: int, index: int) -> float:
        """How much faster than recorded an epoch plays the utterance."""
        if self.augmentation is None:
            return 1.0
        generator = utterance_generator(self.seed, epoch, self.utterances[index].id, "speed")
        return speed_factor(self.augmentation, generator)

    def seconds(self, epoch: int) -> npt.NDArray[np.float64]:
        """Durations at the epoch's speeds, float64 (N,)."""
        return np.array(
            [
                utterance.seconds / self.speed_factor(epoch, index)
                for index, utterance in enumerate(self.utterances)
            ]
        )


def read_audio(path: Path, sample_rate_hz: int) -> Samples:
    """Samples of a mono file in any format that soundfile reads, int16 (S,).

    Lossy formats decode to float and are rounded and clipped here, so that audio from memory and
    from the file is one and the same. Raises StudentError for anything that a manifest should not name.
    """
    if not path.is_file():
        raise StudentError(
            f"{path}: no such file; point BERT2CTC_DATA at the folder that holds the corpora, or rerun "
            "`bert2ctc data prepare`"
        )
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise StudentError(f"{path}: cannot be decoded ({error}); rerun `bert2ctc data prepare`") from None
    if rate != sample_rate_hz:
        raise StudentError(
            f"{path}: {rate} Hz, the config says {sample_rate_hz} Hz; rerun `bert2ctc data prepare`"
        )
    if samples.shape[1] != 1:
        raise StudentError(f"{path}: {samples.shape[1]} channels, 1 is needed; rerun `bert2ctc data prepare`")
    if not len(samples) or not np.isfinite(samples).all():
        fault = "holds NaN or infinity" if len(samples) else "holds no samples"
        raise StudentError(f"{path}: {fault}; rerun `bert2ctc data prepare`")
    rounded: Samples = np.rint(samples[:, 0] * 32768).clip(-32768, 32767).astype(np.int16)
    return rounded


def collate(items: Sequence[_Item]) -> SpeechBatch:
    """Pad items to one batch, in their order."""
    return SpeechBatch(
        epoch=items[0].key[0],
        indices=tuple(item.key[1] for item in items),
        waveforms=pad_sequence([item.waveform for item in items], batch_first=True),
        sample_lengths=torch.tensor([len(item.waveform) for item in items]),
        units=pad_sequence([item.units for item in items], batch_first=True),
        unit_lengths=torch.tensor([len(item.units) for item in items]),
    )


def load_batches(
    dataset: SpeechDataset, batches: Iterable[Sequence[Key]], workers: int = 0
) -> Generator[SpeechBatch]:
    """Batches in the order of their keys, read by `workers` processes (0: by this one).

    Labels of the teacher are not read here: one copy in the training process serves every worker.
    """
    if workers:
        start_fork_server()
    loader = DataLoader(
        dataset,
        batch_sampler=batches,  # type: ignore[arg-type]  # may be endless: its length is never asked for
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
        worker_init_fn=partial(obey_sigterm_of, os.getpid()) if workers else None,
        generator=torch.Generator(),  # the loader draws a seed; not from the generator that dropout uses
    )
    try:
        yield from loader
    except StudentError as error:  # a worker's error arrives with its traceback as text
        line = str(error).strip().splitlines()[-1]
        raise StudentError(line.removeprefix("student.errors.StudentError: ")) from None


def sampled_waveforms(speech: SpeechDataset, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Waveforms and lengths of up to NORMALISATION_UTTERANCES utterances, one by one, chosen by the seed."""
    order = np.random.default_rng(seed).permutation(len(speech))
    keys = [[(0, int(index))] for index in order[:NORMALISATION_UTTERANCES]]
    for batch in load_batches(speech, keys):
        yield batch.waveforms, batch.sample_lengths
