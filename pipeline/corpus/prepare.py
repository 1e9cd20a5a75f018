"""From a corpus to what training reads: checked manifests with normalised text, and the units of CTC."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.config import ExperimentConfig, as_tables
from pipeline.corpus.prepared import FILES_SHA256, RECORD_NAME, digests_of, require_unchanged
from pipeline.corpus.read import BadItem, CorpusLocation, RawUtterance, read_split
from pipeline.corpus.validation import (
    RawSplits,
    Splits,
    counts_by_reason,
    shared_speakers,
    too_dense,
    validate,
    write_report,
)
from pipeline.errors import PipelineError
from pipeline.files import FILES
from pipeline.normaliser import normaliser_identity
from pipeline.run_record import provenance
from student.config import FeatureConfig
from student.data.manifest import Utterance, write_manifest
from student.data.units import Units, train_units
from student.errors import StudentError
from teacher_cache.common.differences import differences, listed, phrases
from teacher_cache.common.files import publish_folder, write_json
from teacher_cache.common.typed import convert, typed

LEFT_OUT_NAME = "left_out.tsv"
UNREADABLE = "unreadable_sha256"  # in RECORD_NAME; folders of before have none


@dataclass(frozen=True, slots=True)
class PrepareResult:
    """What lies in `path`. is_reused : an equal preparation lay there already and nothing was written.

    splits : per split its utterances, hours, words, speakers and items left out
    num_units : pieces, without the blank     left_out : items by reason     warnings : one line each
    """

    path: Path
    is_reused: bool
    splits: Mapping[str, Mapping[str, Any]]
    num_units: int
    left_out: Mapping[str, int]
    warnings: tuple[str, ...]


def prepare(
    config: ExperimentConfig, data_root: Path, output_dir: Path, leave_out_bad: bool = False
) -> PrepareResult:
    """Validate every split of the config; write manifests, units and prepare.json, whole or not at all.

    The data root is only read. Units are trained on the training split alone. Equal inputs (data
    table, normaliser; ids, texts, paths and sizes of the audio) find the folder as it is.
    Raises PipelineError where the folder was prepared from other inputs, and where items are bad and
    `leave_out_bad` is False; their reasons then lie in `<output_dir>.bad-items.tsv`.
    """
    corpus = data_root / config.data.corpus
    if config.demo_corpus is not None and not corpus.is_dir():
        raise PipelineError(f"{corpus}: no such folder; make the corpus with `bert2ctc data demo`")
    raw, bad = _read(config, data_root)
    identity = _identity(config, raw, data_root)
    unreadable = _digest_of(bad)
    if output_dir.exists():
        return _reuse(output_dir, identity, unreadable)
    checked = validate(raw, config.data, data_root)
    bad += checked.bad
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output_dir.name}.", dir=output_dir.parent) as scratch:
        building = Path(scratch) / output_dir.name
        good, units = _with_units(config, checked.good, bad, building / "units.model", leave_out_bad)
        if units is None or (bad and not leave_out_bad):
            raise _refusal(bad, output_dir)
        record = _write(building, config, good, units, bad)
        write_json(
            building / RECORD_NAME,
            {
                "identity": identity,
                UNREADABLE: unreadable,
                FILES_SHA256: digests_of(building),
                **record,
                "provenance": provenance(),
            },
        )
        _publish(building, output_dir)
    _report_path(output_dir).unlink(missing_ok=True)  # what an earlier attempt complained about
    return _result(output_dir, record, is_reused=False)


def _read(config: ExperimentConfig, data_root: Path) -> tuple[dict[str, list[RawUtterance]], list[BadItem]]:
    location = CorpusLocation(data_root, config.data.corpus, config.folder)
    raw: dict[str, list[RawUtterance]] = {}
    bad: list[BadItem] = []
    for name, split in config.data.splits.items():
        raw[name], unreadable = read_split(name, split, location)
        bad += unreadable
    return raw, bad


def _identity(config: ExperimentConfig, raw: RawSplits, data_root: Path) -> dict[str, Any]:
    """All that decides the output, and nothing of where things lie or what they were called."""
    data = {key: value for key, value in as_tables(config)["data"].items() if key != "download"}
    inputs = {}
    for name, entries in raw.items():
        digest = hashlib.sha256()
        for entry in entries:
            line = (entry.id, entry.audio, entry.text, entry.speaker, entry.chapter, entry.position)
            digest.update(json.dumps([*line, _bytes_of(data_root / entry.audio)]).encode())
        inputs[name] = {"utterances": len(entries), "sha256": digest.hexdigest()}
    return {"data": data, "normaliser": normaliser_identity(), "inputs": inputs}


def _bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # no such file, or no name that one could have
        return -1  # validation will say what is wrong with it


def _digest_of(bad: Sequence[BadItem]) -> str:
    """What could not be read, and so is no part of the inputs' identity; not where it lies."""
    items = [[item.split, item.id, item.reason] for item in bad]
    return hashlib.sha256(json.dumps(items).encode()).hexdigest()


def _reuse(folder: Path, identity: Mapping[str, Any], unreadable: str) -> PrepareResult:
    """What lies there, where its inputs were equal; the unreadable ones too, left out knowingly then."""
    path, advice = folder / RECORD_NAME, f"nothing was changed; move {folder} away"
    record = FILES.json(path, advice)
    with FILES.faults_told(path, advice):
        known = convert(Mapping[str, Any], record.get("identity"), "identity")
        result = _result(folder, record, is_reused=True)
    found = phrases(differences(known, identity))
    if record.get(UNREADABLE, unreadable) != unreadable:
        found.append("other bad items")
    if found:
        raise PipelineError(
            f"{folder}: was prepared from other inputs ({listed(found)}); nothing was changed; "
            "runs may still read it, so move it away rather than delete it, then prepare again"
        )
    require_unchanged(folder)
    return result


def _with_units(
    config: ExperimentConfig, good: Splits, bad: list[BadItem], path: Path, leave_out_bad: bool
) -> tuple[Splits, Units | None]:
    """The units, and the utterances that CTC can align with them; the others join `bad`.

    No units (None) where the training text, or what is left of it, cannot yield them, and the bad
    items are going to be reported anyway.
    """
    data = config.data
    texts = [utterance.text for utterance in good["train"]]
    try:
        units, _ = train_units(texts, path, data.unit_vocabulary_size, data.unit_model_type)
    except StudentError:
        if bad and not leave_out_bad:
            return good, None
        raise
    impossible = too_dense(good, units, FeatureConfig(sample_rate_hz=data.sample_rate_hz))
    bad += impossible
    dropped = {(item.split, item.id) for item in impossible}
    kept = {
        name: [utterance for utterance in utterances if (name, utterance.id) not in dropped]
        for name, utterances in good.items()
    }
    return kept, units


def _refusal(bad: Sequence[BadItem], output_dir: Path) -> PipelineError:
    report = _report_path(output_dir)
    write_report(report, bad)
    count = len({(item.split, item.id) for item in bad})
    return PipelineError(
        f"{count} bad utterances ({counts_by_reason(bad)}), each named "
        f"in {report}; mend them, or leave them out: `bert2ctc data prepare --leave-out-bad`"
    )


def _report_path(output_dir: Path) -> Path:
    return output_dir.with_name(f"{output_dir.name}.bad-items.tsv")


def _write(
    folder: Path, config: ExperimentConfig, good: Splits, units: Units, bad: Sequence[BadItem]
) -> dict[str, Any]:
    for name, utterances in good.items():
        if not utterances:
            raise PipelineError(f"split {name}: no usable utterance left ({counts_by_reason(bad)})")
        write_manifest(folder / f"{name}.jsonl", utterances)
    if bad:
        write_report(folder / LEFT_OUT_NAME, bad)
    left_out = Counter(split for split, _ in {(item.split, item.id) for item in bad})
    return {
        "splits": {name: _summary(utterances, left_out[name]) for name, utterances in good.items()},
        "num_units": units.size - 1,
        "left_out": dict(Counter(item.reason for item in bad)),
        "warnings": [*shared_speakers(good), *_too_dense_at_speed(config, good["train"], units)],
    }


def _too_dense_at_speed(config: ExperimentConfig, training: Sequence[Utterance], units: Units) -> list[str]:
    """A warning where this config's features and fastest speed leave too few frames for a good utterance."""
    student = config.student
    speed = max(student.augmentation.speed_factors)
    subsampling = student.conformer.subsampling
    found = too_dense({"train": training}, units, student.features, speed, subsampling)
    if not found:
        return []
    return [
        f"{len(found)} training utterances hold more units than frames at speed {speed:g}, the fastest of "
        f"this config, and subsampling {subsampling} (first: {found[0].id}); training skips and counts them"
    ]


def _summary(utterances: Sequence[Utterance], left_out: int) -> dict[str, Any]:
    return {
        "utterances": len(utterances),
        "hours": round(sum(utterance.seconds for utterance in utterances) / 3600, 4),
        "words": sum(len(utterance.text.split()) for utterance in utterances),
        "speakers": len({utterance.speaker for utterance in utterances} - {""}),
        "left_out": left_out,
    }


def _publish(building: Path, output_dir: Path) -> None:
    try:
        publish_folder(building, output_dir)
    except OSError as error:
        raise PipelineError(
            f"{output_dir}: cannot be put in place ({error.strerror}); another process may have prepared it "
            "at the same time; run the same command again"
        ) from None


def _result(path: Path, record: Mapping[str, Any], is_reused: bool) -> PrepareResult:
    told = {field.name for field in fields(PrepareResult)} & record.keys()
    entry = {**{name: record[name] for name in told}, "path": path, "is_reused": is_reused}
    return typed(PrepareResult, entry)
