"""Word error rates of a trained student, split by split, with everything needed to check them elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from student.data.dataset import SpeechDataset, load_batches
from student.data.manifest import Utterance, read_manifest
from student.data.sampler import batches_of
from student.inference.averaging import Average
from student.inference.evaluation_files import (
    GREEDY,
    SplitTexts,
    evaluation_folder,
    split_scores,
    write_split,
)
from student.inference.recogniser import Recogniser, load_recogniser
from student.inference.speed import Stopwatch
from teacher_cache.common.progress import progress


def evaluate(
    run: Path,
    manifests: Mapping[str, Path],
    data_root: Path,
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
    average: Average | None = None,
) -> dict[str, dict[str, Any]]:
    """By split what `split_scores` counts, with checkpoint and speed.

    run : a run folder, one checkpoint of it, or an export     say : gets a line with model and device
    average : the mean of several checkpoints of the run folder instead
    speed : the decoder's seconds and real-time factor, of `Stopwatch.figures`
    Writes what `write_split` lists into the run's `evaluation_folder`.
    Every utterance of a manifest counts, also one that training left out.
    """
    recogniser = load_recogniser(run, device, average)
    say(recogniser.description)
    folder = evaluation_folder(_run_folder(recogniser.source), GREEDY, average.name if average else "")
    results = {}
    for split, manifest in manifests.items():
        utterances, stopwatch = read_manifest(manifest), Stopwatch(recogniser.device)
        heard = recognise(recogniser, utterances, data_root, f"recognising {split}", stopwatch)
        texts = SplitTexts(utterances, heard)
        results[split] = split_scores(texts) | {
            "checkpoint": recogniser.source.name,
            "speed": stopwatch.figures(GREEDY, sum(utterance.seconds for utterance in utterances)),
        }
        write_split(folder, split, texts, results[split])
    return results


def recognise(
    recogniser: Recogniser,
    utterances: Sequence[Utterance],
    data_root: Path,
    title: str = "recognising",
    stopwatch: Stopwatch | None = None,
) -> dict[int, list[str]]:
    """Texts in the order of the utterances, by every layer that CTC trained."""
    if not utterances:
        return {layer: [] for layer in recogniser.model.ctc_layers}
    trainer = recogniser.config.trainer
    dataset = SpeechDataset(
        utterances=utterances,
        unit_ids=[[]] * len(utterances),
        data_root=data_root,
        sample_rate_hz=recogniser.config.features.sample_rate_hz,
    )
    batches = batches_of(dataset.seconds(0), trainer.micro_batch_seconds)
    keys = [[(0, int(index)) for index in batch] for batch in batches]
    texts = {layer: [""] * len(utterances) for layer in recogniser.model.ctc_layers}
    with progress(title, total=len(utterances), unit="utterances") as advance:
        for batch in load_batches(dataset, keys, trainer.data_workers):
            transcripts = recogniser.transcripts(batch.waveforms, batch.sample_lengths, stopwatch)
            for layer, rows in transcripts.items():
                for index, text in zip(batch.indices, rows, strict=True):
                    texts[layer][index] = text
            advance(len(batch.indices))
    return texts


def _run_folder(source: Path) -> Path:
    return source.parent.parent if source.parent.name == "checkpoints" else source.parent
