"""Word error rates of a trained student, split by split, with everything needed to check them elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from student.data.dataset import SpeechDataset, load_batches
from student.data.manifest import Utterance, read_manifest
from student.data.sampler import batches_of
from student.decoding.interface import Decoder
from student.decoding.names import GREEDY
from student.files import FILES
from student.inference.averaging import Average
from student.inference.evaluation_files import (
    SplitTexts,
    equal_scores,
    evaluation_folder,
    split_scores,
    write_split,
)
from student.inference.recogniser import GREEDY_ALONE, Recognised, Recogniser, load_recogniser
from student.inference.speed import Stopwatch
from student.inference.tuning_file import model_digest
from teacher_cache.common.files import file_sha256
from teacher_cache.common.progress import progress

Scores = dict[str, dict[str, Any]]  # by split


@dataclass(frozen=True, slots=True)
class Evaluated:
    """scores : by row and split     is_reused : nothing was decoded, all was there from equal inputs"""

    scores: dict[str, Scores]
    is_reused: bool


@dataclass(frozen=True, slots=True)
class DecodedRow:
    """One row of results: a decoder of the final layer; taps are greedy.

    open : makes it for the student, None: greedy     inputs : digests of what it depends on, by name
    """

    open: Callable[[Recogniser], Decoder] | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)


def evaluate(
    run: Path,
    manifests: Mapping[str, Path],
    data_root: Path,
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
    average: Average | None = None,
) -> Scores:
    """What `evaluate_rows` finds of the greedy row alone."""
    return evaluate_rows(run, manifests, data_root, {GREEDY: DecodedRow()}, device, say, average).scores[
        GREEDY
    ]


def evaluate_rows(
    run: Path,
    manifests: Mapping[str, Path],
    data_root: Path,
    rows: Mapping[str, DecodedRow],
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
    average: Average | None = None,
    reuse: bool = False,
) -> Evaluated:
    """By row and split what `split_scores` counts, with checkpoint, inputs and speed.

    run : a run folder, one checkpoint of it, or an export     say : gets a line with model and device
    average : the mean of several checkpoints of the run folder instead
    rows : by what its results are called: the decoder's name, or that and a label; all hear one pass of the
        encoder     reuse : a row's split that was evaluated from equal inputs is taken as it was
    speed : the decoder's seconds and real-time factor, of `Stopwatch.figures`
    Writes what `write_split` lists into the run's `evaluation_folder`.
    Every utterance of a manifest counts, also one that training left out.
    """
    recogniser = load_recogniser(run, device, average)
    say(recogniser.description)
    source, student = _run_folder(recogniser.source), model_digest(recogniser)
    folders = {row: evaluation_folder(source, row, average.name if average else "") for row in rows}
    results: dict[str, Scores] = {row: {} for row in rows}
    decoders: dict[str, Decoder | None] = {}
    is_reused = True
    for split, manifest in manifests.items():
        utterances = read_manifest(manifest)
        heard_by = {"student": student, "manifest": _digest(manifest)}
        inputs = {row: {**heard_by, **one.inputs} for row, one in rows.items()}
        if reuse:
            for row in rows:
                if (known := equal_scores(folders[row], split, inputs[row])) is not None:
                    results[row][split] = known
        asked = [row for row in rows if split not in results[row]]
        for row in asked:
            if row not in decoders:
                opened = rows[row].open
                decoders[row] = opened(recogniser) if opened else None
        if not asked:
            continue
        is_reused = False
        stopwatch = Stopwatch(recogniser.device)
        chosen = {row: decoders[row] for row in asked}
        heard = recognise(recogniser, utterances, data_root, f"recognising {split}", stopwatch, chosen)
        seconds = sum(utterance.seconds for utterance in utterances)
        for row in asked:
            texts = SplitTexts(utterances, heard.by_layer(row))
            results[row][split] = split_scores(texts) | {
                "checkpoint": recogniser.source.name,
                "inputs": inputs[row],
                "speed": stopwatch.figures(row, seconds),
            }
            write_split(folders[row], split, texts, results[row][split])
    return Evaluated(results, is_reused)


def recognise(
    recogniser: Recogniser,
    utterances: Sequence[Utterance],
    data_root: Path,
    title: str = "recognising",
    stopwatch: Stopwatch | None = None,
    decoders: Mapping[str, Decoder | None] = GREEDY_ALONE,
) -> Recognised:
    """Texts in the order of the utterances, by each row's decoder and by the taps."""
    whole = Recognised.of_nothing(recogniser.model.ctc_layers, decoders, len(utterances))
    if not utterances:
        return whole
    trainer = recogniser.config.trainer
    dataset = SpeechDataset(
        utterances=utterances,
        unit_ids=[[]] * len(utterances),
        data_root=data_root,
        sample_rate_hz=recogniser.config.features.sample_rate_hz,
    )
    batches = batches_of(dataset.seconds(0), trainer.micro_batch_seconds)
    keys = [[(0, int(index)) for index in batch] for batch in batches]
    with progress(title, total=len(utterances), unit="utterances") as advance:
        for batch in load_batches(dataset, keys, trainer.data_workers):
            part = recogniser.transcripts(batch.waveforms, batch.sample_lengths, stopwatch, decoders)
            whole.put(batch.indices, part)
            advance(len(batch.indices))
    return whole


def _run_folder(source: Path) -> Path:
    return source.parent.parent if source.parent.name == "checkpoints" else source.parent


def _digest(manifest: Path) -> str:
    with FILES.faults_told(manifest, "prepare the corpus again with `bert2ctc data prepare`"):
        return file_sha256(manifest)
