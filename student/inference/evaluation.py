"""Word error rates of a trained student, split by split, with everything needed to check them elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from student.data.dataset import SpeechDataset, load_batches
from student.data.manifest import Utterance, read_manifest
from student.data.sampler import batches_of
from student.files import write_json, write_text
from student.inference.averaging import Average
from student.inference.recogniser import Recogniser, load_recogniser
from student.metrics import count_errors
from teacher_cache.common.progress import progress


def evaluate(
    run: Path,
    manifests: Mapping[str, Path],
    data_root: Path,
    device: str = "auto",
    say: Callable[[str], None] = lambda line: None,
    average: Average | None = None,
) -> dict[str, dict[str, Any]]:
    """Error rates by split: wer, cer, substitutions, deletions, insertions, words, utterances, tap_wer.

    run : a run folder, one checkpoint of it, or an export     say : gets a line with model and device
    average : the mean of several checkpoints of the run folder instead
    tap_wer : layer -> WER, the final layer among them
    Writes <run folder>/evaluation/<split>.json and, in the trn format of NIST sclite, <split>.ref.trn
    and <split>.hyp.trn; of an average one folder further down, by its name.
    Every utterance of a manifest counts, also one that training left out.
    """
    recogniser = load_recogniser(run, device, average)
    say(recogniser.description)
    folder = _run_folder(recogniser.source) / "evaluation" / (average.name if average else "")
    results = {}
    for split, manifest in manifests.items():
        utterances = read_manifest(manifest)
        transcripts = recognise(recogniser, utterances, data_root, title=f"recognising {split}")
        results[split] = _score(utterances, transcripts) | {"checkpoint": recogniser.source.name}
        write_json(folder / f"{split}.json", results[split])
        _write_trn(folder / f"{split}.ref.trn", utterances, [u.text for u in utterances])
        _write_trn(folder / f"{split}.hyp.trn", utterances, transcripts[max(transcripts)])
    return results


def recognise(
    recogniser: Recogniser, utterances: Sequence[Utterance], data_root: Path, title: str = "recognising"
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
            transcripts = recogniser.transcripts(batch.waveforms, batch.sample_lengths)
            for layer, rows in transcripts.items():
                for index, text in zip(batch.indices, rows, strict=True):
                    texts[layer][index] = text
            advance(len(batch.indices))
    return texts


def _score(utterances: Sequence[Utterance], transcripts: Mapping[int, Sequence[str]]) -> dict[str, Any]:
    references = [utterance.text for utterance in utterances]
    counts = {layer: count_errors(references, texts) for layer, texts in transcripts.items()}
    return asdict(counts[max(counts)]) | {"tap_wer": {str(layer): c.wer for layer, c in counts.items()}}


def _run_folder(source: Path) -> Path:
    return source.parent.parent if source.parent.name == "checkpoints" else source.parent


def _write_trn(path: Path, utterances: Sequence[Utterance], texts: Sequence[str]) -> None:
    lines = (f"{text} ({utterance.id})\n" for utterance, text in zip(utterances, texts, strict=True))
    write_text(path, "".join(lines))
