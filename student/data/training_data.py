"""What a run trains on: manifests, units and the teacher's labels, checked against each other first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from student.config import DecoderConfig, ObjectiveConfig, StudentConfig
from student.data.augmentation import spec_augment, utterance_generator
from student.data.batch import DecoderBatch, TrainingBatch
from student.data.character_spans import unit_spans
from student.data.dataset import SpeechBatch, SpeechDataset
from student.data.decoder_vocabulary import DecoderVocabulary, build_vocabulary
from student.data.manifest import Utterance, read_manifest
from student.data.phase import WHOLE, Phase
from student.data.units import Units
from student.errors import StudentError
from student.frames import fits_ctc, too_few_frames
from student.model.features import LogMel
from teacher_cache.config import CacheConfig
from teacher_cache.passages import passages_of
from teacher_cache.store import TargetsBatch, TeacherCacheReader

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """One run: what to train, on what, and where to.

    train_manifest, dev_manifest : JSONL of `bert2ctc data prepare`; without dev no WER is measured
    units_model : SentencePiece model     data_root : what the manifests' audio paths are relative to
    cache_path : a published teacher cache; None only where no attention decoder is trained
    cache_config : the [cache] table that the cache must have been built with
    scratch : where labels that do not fit in memory are mapped from; None reads them from the cache
    normaliser : identity of the one that wrote the manifests' texts; None leaves it out of the comparison
    """

    config: StudentConfig
    train_manifest: Path
    dev_manifest: Path | None
    units_model: Path
    data_root: Path
    cache_path: Path | None
    cache_config: CacheConfig
    run_dir: Path
    scratch: Path | None = None
    normaliser: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Labels:
    """The teacher's labels of one split, read in the training process: one copy serves all data workers.

    digests : of the split's utterances, in their order     unit_pieces : the CTC units' pieces by id
    spans : of utterances that were asked for before; they never change
    """

    reader: TeacherCacheReader
    vocabulary: DecoderVocabulary
    objective: ObjectiveConfig
    decoder: DecoderConfig
    digests: Sequence[bytes]
    unit_pieces: Sequence[str]
    spans: dict[int, np.ndarray | None] = field(default_factory=dict)

    def batch(self, speech: SpeechDataset, indices: Sequence[int], epoch: int) -> DecoderBatch:
        """Decoder inputs, targets and teacher of these utterances, and the units of each token's window.

        speech : of the same split; where it is augmented, a rate of the history is hidden
        """
        targets = self.reader.batch([self.digests[index] for index in indices])
        rate, is_training = self.decoder.hidden_history, speech.augmentation is not None
        if rate == 1 or (rate and is_training):
            hidden = [
                utterance_generator(speech.seed, epoch, speech.utterances[index].id, "history").random(
                    length + 1
                )
                < rate
                for index, length in zip(indices, targets.lengths.tolist(), strict=True)
            ]
        else:
            hidden = None
        spans = None
        if self.decoder.attention == "aligned":
            spans = [self._unit_spans(targets, number, speech, index) for number, index in enumerate(indices)]
        return self.vocabulary.batch(targets, self.objective, hidden, spans)

    def _unit_spans(
        self, targets: TargetsBatch, number: int, speech: SpeechDataset, index: int
    ) -> np.ndarray | None:
        if index not in self.spans:
            self.spans[index] = unit_spans(
                [self.reader.vocabulary[piece] for piece in targets[number].gold_ids],
                [self.unit_pieces[unit] for unit in speech.unit_ids[index]],
                speech.utterances[index].text,
                whole_words=self.decoder.window_unit == "word",
            )
        return self.spans[index]


@dataclass(frozen=True, slots=True)
class Split:
    """Speech of a split and, where decoders are trained and the cache covers it, its labels."""

    speech: SpeechDataset
    labels: Labels | None

    @torch.no_grad()
    def training_batch(
        self, speech: SpeechBatch, log_mel: LogMel, device: torch.device, phase: Phase = WHOLE
    ) -> TrainingBatch:
        """What the objective takes in that phase, on `device`; SpecAugment where the speech is augmented."""
        features, frame_lengths = log_mel(speech.waveforms.to(device), speech.sample_lengths.to(device))
        if self.speech.augmentation is not None and phase.has_masks:
            generators = [
                utterance_generator(self.speech.seed, speech.epoch, self.speech.utterances[index].id, "masks")
                for index in speech.indices
            ]
            hop = log_mel.config.hop_milliseconds if phase.has_word_masks else None
            features = spec_augment(features, frame_lengths, self.speech.augmentation, generators, hop)
        labels = self.labels if phase.has_branch else None
        decoder = labels.batch(self.speech, speech.indices, speech.epoch) if labels else None
        if decoder is not None and not phase.is_aligned:
            decoder = replace(decoder, unit_spans=None)
        batch = TrainingBatch(features, frame_lengths, speech.units, speech.unit_lengths, decoder)
        return batch.to(device)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Everything that a run reads.

    left_out : training utterances with more units than frames     cache_fingerprint : "" without a cache
    """

    units: Units
    train: Split
    dev: Split | None
    left_out: int
    cache_fingerprint: str

    @property
    def vocabulary(self) -> DecoderVocabulary | None:
        """The decoders' outputs, None where no decoder is trained."""
        return self.train.labels.vocabulary if self.train.labels else None


def load_training_data(job: TrainingJob, pieces: Sequence[int] | None, say: Say) -> TrainingData:
    """Read and check all that a job names; what is worth knowing goes to `say`, line by line.

    pieces : the decoders' pieces of the checkpoint that the run goes on from, None in a new run
    Raises StudentError or CacheError before anything is trained on the wrong thing.
    """
    units = Units.from_file(job.units_model)
    train, train_digests, left_out = _speech(job, units, job.train_manifest, is_training=True)
    reason = too_few_frames(job.config.features, job.config.conformer.subsampling, units.size - 1)
    if left_out:
        say(f"left out {left_out} of {left_out + len(train)} training utterances: {reason}")
    dev: SpeechDataset | None = None
    dev_digests: list[bytes] = []
    if job.dev_manifest is not None:
        dev, dev_digests, dev_left_out = _speech(job, units, job.dev_manifest, is_training=False)
        if dev_left_out:
            say(f"left out {dev_left_out} of {dev_left_out + len(dev)} dev utterances: {reason}")
    if not job.config.objective.uses_branch:
        return TrainingData(
            units, Split(train, None), Split(dev, None) if dev is not None else None, left_out, ""
        )
    reader = open_cache(job)
    reader.require({u.id: digest for u, digest in zip(train.utterances, train_digests, strict=True)})
    reader.prepare()  # whatever is wrong with a label ends the run here, a resumed one too
    vocabulary = _vocabulary(job, reader, train_digests, pieces, say)
    objective, decoder = job.config.objective, job.config.decoder
    labels = Labels(reader, vocabulary, objective, decoder, train_digests, units.pieces)
    if job.config.objective.branch == "alignment":
        _refuse_what_cannot_be_aligned(train, labels, job.config)
    dev_split = None
    if dev is not None:
        dev_split = Split(dev, replace(labels, digests=dev_digests, spans={}))
        absent = sum(digest not in reader for digest in dev_digests)
        if absent:
            say(f"the cache lacks {absent} of {len(dev_digests)} dev utterances: no decoder figures on dev")
            dev_split = Split(dev, None)
    return TrainingData(units, Split(train, labels), dev_split, left_out, reader.fingerprint)


def open_cache(job: TrainingJob) -> TeacherCacheReader:
    """The job's cache, at its objective's k' and T. Raises StudentError where it was built otherwise."""
    objective = job.config.objective
    if job.cache_path is None:
        raise StudentError(
            f"objective.ctc_weight {objective.ctc_weight} trains attention decoders on the cache's pieces, "
            "and there is no cache; run `bert2ctc cache build` or set objective.ctc_weight=1"
        )
    reader = TeacherCacheReader(
        job.cache_path,
        top_k=objective.top_k,
        temperature=objective.temperature if objective.uses_teacher else 1.0,
        tail=objective.tail,
        memory_megabytes=job.config.trainer.label_memory_megabytes,
        scratch=job.scratch,
    )
    held = reader.manifest.recipe.normaliser
    normaliser = held if job.normaliser is None else job.normaliser
    differences = reader.manifest.differences(job.cache_config, "", normaliser)
    if differences:
        raise StudentError(
            f"cache {reader.fingerprint} was built otherwise: {'; '.join(differences)}; "
            "run `bert2ctc cache build` with this config"
        )
    return reader


def _speech(
    job: TrainingJob, units: Units, manifest: Path, *, is_training: bool
) -> tuple[SpeechDataset, list[bytes], int]:
    """The utterances that CTC can align, the digests of their passages, and how many were left out."""
    config = job.config
    utterances = read_manifest(manifest)
    digests = [passage.digest for passage in passages_of(utterances, job.cache_config)]
    fastest = max(config.augmentation.speed_factors) if is_training else 1.0
    kept: list[tuple[Utterance, list[int], bytes]] = []
    for utterance, digest in zip(utterances, digests, strict=True):
        unit_ids = units.encode(utterance.text)
        if fits_ctc(unit_ids, utterance.seconds, config.features, fastest, config.conformer.subsampling):
            kept.append((utterance, unit_ids, digest))
    if not kept:
        raise StudentError(
            f"{manifest}: none of its {len(utterances)} utterances can be used; see prepare.json"
        )
    dataset = SpeechDataset(
        utterances=[utterance for utterance, _, _ in kept],
        unit_ids=[unit_ids for _, unit_ids, _ in kept],
        data_root=job.data_root,
        sample_rate_hz=config.features.sample_rate_hz,
        augmentation=config.augmentation if is_training else None,
        seed=config.trainer.seed,
        memory_megabytes=config.trainer.audio_memory_megabytes / max(1, config.trainer.data_workers),
    )
    return dataset, [digest for _, _, digest in kept], len(utterances) - len(kept)


def _refuse_what_cannot_be_aligned(speech: SpeechDataset, labels: Labels, config: StudentConfig) -> None:
    """Raises StudentError where an utterance has more of the teacher's pieces than encoder frames."""
    fastest = max(config.augmentation.speed_factors)
    faults = [
        utterance.id
        for utterance, digest in zip(speech.utterances, labels.digests, strict=True)
        if not fits_ctc(
            labels.reader.targets(digest).gold_ids.tolist(),
            utterance.seconds,
            config.features,
            fastest,
            config.conformer.subsampling,
        )
    ]
    if faults:
        raise StudentError(
            f"{len(faults)} utterances ({faults[0]}, ...) have more of the teacher's pieces than frames at "
            f"speed {fastest:g}: nothing to align; take objective.branch=attention, or leave them out"
        )


def _vocabulary(
    job: TrainingJob,
    reader: TeacherCacheReader,
    digests: Sequence[bytes],
    pieces: Sequence[int] | None,
    say: Say,
) -> DecoderVocabulary:
    teacher_size = len(reader.vocabulary)
    if pieces is not None:  # fixed when the run started
        return DecoderVocabulary(pieces, teacher_size)
    vocabulary = build_vocabulary(
        (reader.targets(digest) for digest in digests), teacher_size, job.config.decoder.min_count
    )
    moved = vocabulary.moved_mass(reader.targets(digest) for digest in digests)
    say(
        f"decoders know {vocabulary.num_outputs - 1} of the teacher's {teacher_size} pieces; "
        f"{moved:.2%} of its mass lies on other candidates"
    )
    return vocabulary
