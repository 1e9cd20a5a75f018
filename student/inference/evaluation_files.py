"""What an evaluation leaves on disk: counts by tap, speaker and utterance, alignments, and trn for sclite."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from student.data.manifest import Utterance
from student.decoding.names import GREEDY
from student.files import FILES, write_json, write_text
from student.metrics import WordPair, align_words, count_errors
from teacher_cache.common.small_files import is_there

_ERRORS = {"S": "substitutions", "D": "deletions", "I": "insertions"}


@dataclass(frozen=True, slots=True)
class SplitTexts:
    """One split and what was recognised in it: texts by layer, in the order of the utterances.

    The final layer, which has the highest number, is what the decoder made; taps are decoded greedily.
    """

    utterances: Sequence[Utterance]
    by_layer: Mapping[int, Sequence[str]]

    @property
    def final(self) -> Sequence[str]:
        """The decoder's texts."""
        return self.by_layer[max(self.by_layer)]

    @property
    def references(self) -> list[str]:
        """What was said."""
        return [utterance.text for utterance in self.utterances]


def evaluation_folder(run_folder: Path, decoder: str = GREEDY, average: str = "") -> Path:
    """`<run>/evaluation`, where greedy's files lie; one folder down those of an average, of another decoder.

    average : the name of the averaged checkpoints, "" for the run's own model
    """
    return run_folder / "evaluation" / average / ("" if decoder == GREEDY else decoder)


def split_scores(texts: SplitTexts) -> dict[str, Any]:
    """wer, cer, substitutions, deletions, insertions, words, utterances; taps, tap_wer.

    taps : layer -> the same counts, the final layer among them     tap_wer : layer -> WER
    """
    counts = {layer: count_errors(texts.references, heard) for layer, heard in texts.by_layer.items()}
    return asdict(counts[max(counts)]) | {
        "taps": {str(layer): asdict(count) for layer, count in counts.items()},
        "tap_wer": {str(layer): count.wer for layer, count in counts.items()},
    }


def write_split(folder: Path, split: str, texts: SplitTexts, scores: Mapping[str, Any]) -> None:
    """Write all files of a split below `folder`, each whole or not at all.

    <split>.json : `scores`     <split>.utterances.jsonl : a line each, as `utterance_entry` has it
    <split>.speakers.json : speaker -> utterances, words, errors by kind, wer
    <split>.alignments.txt : reference above hypothesis, and S, D or I below each error
    <split>.ref.trn, <split>.hyp.trn, <split>.tap<layer>.hyp.trn : in the trn format of NIST sclite
    """
    aligned = align_words(texts.references, texts.final)
    final = max(texts.by_layer)
    entries = [
        utterance_entry(
            utterance, pairs, {layer: heard[row] for layer, heard in texts.by_layer.items() if layer != final}
        )
        for row, (utterance, pairs) in enumerate(zip(texts.utterances, aligned, strict=True))
    ]
    lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    write_text(folder / f"{split}.utterances.jsonl", "".join(lines))
    write_json(folder / f"{split}.speakers.json", speaker_figures(entries))
    shown = map(alignment_text, texts.utterances, aligned)
    write_text(folder / f"{split}.alignments.txt", "\n".join(shown))
    _write_trn(folder / f"{split}.ref.trn", texts.utterances, texts.references)
    for layer, heard in texts.by_layer.items():
        name = "hyp" if layer == final else f"tap{layer}.hyp"
        _write_trn(folder / f"{split}.{name}.trn", texts.utterances, heard)
    write_json(folder / f"{split}.json", scores)  # the last: where it lies, all others do


def equal_scores(folder: Path, split: str, inputs: Mapping[str, str]) -> dict[str, Any] | None:
    """The scores that `write_split` wrote from equal inputs; None where there are none."""
    path = folder / f"{split}.json"
    if not is_there(path):
        return None
    scores = FILES.json(path, "delete it, and evaluate again with `bert2ctc evaluate RUN`")
    return scores if scores.get("inputs") == dict(inputs) else None


def utterance_entry(
    utterance: Utterance, pairs: Sequence[WordPair], taps: Mapping[int, str]
) -> dict[str, Any]:
    """id, speaker ("" where the manifest names none), seconds, words, errors by kind, both texts, taps.

    taps : layer -> text, of all but the final layer
    """
    said, heard = zip(*pairs, strict=True)
    return {
        "id": utterance.id,
        "speaker": utterance.speaker,
        "seconds": utterance.seconds,
        "words": sum(word is not None for word in said),
        **_error_counts(pairs),
        "reference": " ".join(filter(None, said)),
        "hypothesis": " ".join(filter(None, heard)),
        "taps": {str(layer): text for layer, text in taps.items()},
    }


def speaker_figures(entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Speaker -> utterances, words, errors by kind and wer, in the order of their first utterance."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        figures = found.setdefault(
            entry["speaker"], {"utterances": 0, "words": 0, **dict.fromkeys(_ERRORS.values(), 0)}
        )
        figures["utterances"] += 1
        for name in ("words", *_ERRORS.values()):
            figures[name] += entry[name]
    for figures in found.values():
        figures["wer"] = sum(figures[name] for name in _ERRORS.values()) / figures["words"]
    return found


def alignment_text(utterance: Utterance, pairs: Sequence[WordPair]) -> str:
    """Four lines: id and counts, reference, hypothesis, operations; `***` stands where a word is missing."""
    columns = [(said or "***", heard or "***", pair.operation) for pair in pairs for said, heard in (pair,)]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        " ".join(column[row].ljust(width) for column, width in zip(columns, widths, strict=True)).rstrip()
        for row in range(3)
    ]
    counts = " ".join(f"{operation} {_error_counts(pairs)[name]}" for operation, name in _ERRORS.items())
    named = [f"{name} {line}".rstrip() for name, line in zip(("REF", "HYP", "   "), lines, strict=True)]
    return "\n".join([f"{utterance.id}: {counts}", *named, ""])


def _error_counts(pairs: Sequence[WordPair]) -> dict[str, int]:
    operations = [pair.operation for pair in pairs]
    return {name: operations.count(operation) for operation, name in _ERRORS.items()}


def _write_trn(path: Path, utterances: Sequence[Utterance], texts: Sequence[str]) -> None:
    lines = (f"{text} ({utterance.id})\n" for utterance, text in zip(utterances, texts, strict=True))
    write_text(path, "".join(lines))
