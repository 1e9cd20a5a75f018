"""Every utterance is checked before anything is written, and every bad one is named with its reason."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import DataConfig
from pipeline.corpus.audio_check import AudioFacts, check_audio, silent_decoders
from pipeline.corpus.read import BadItem, RawUtterance
from pipeline.normaliser import UnspeakableText, normalise
from student.config import FeatureConfig
from student.data.manifest import Utterance
from student.data.units import Units
from student.frames import encoder_frame_milliseconds, encoder_frames, fits_ctc, frames_needed
from teacher_cache.common.files import write_whole
from teacher_cache.common.progress import progress

RawSplits = Mapping[str, Sequence[RawUtterance]]
Splits = Mapping[str, Sequence[Utterance]]

# A declared duration may be rounded; one further off belongs to another recording, or to a part of it.
_DURATION_TOLERANCE_SECONDS = 0.1
_DURATION_TOLERANCE_FRACTION = 0.02


@dataclass(frozen=True, slots=True)
class ValidatedSplits:
    """good : usable utterances by split, in order     bad : one item per (utterance, reason)."""

    good: Splits
    bad: list[BadItem]


def validate(splits: RawSplits, data: DataConfig, data_root: Path, workers: int = 0) -> ValidatedSplits:
    """The utterances with nothing wrong, normalised, and every fault of the others.

    All audio is decoded to its end, by `workers` threads (0: one per core; libsndfile runs outside
    Python's lock). Every copy of a duplicate id is bad: which is right, nobody here can know.
    """
    facts = _decode_all({entry.audio for entries in splits.values() for entry in entries}, data_root, workers)
    owners: dict[str, list[str]] = defaultdict(list)
    for name, entries in splits.items():
        for entry in entries:
            owners[entry.id].append(name)
    good: dict[str, list[Utterance]] = {name: [] for name in splits}
    bad: list[BadItem] = []
    for name, entries in splits.items():
        for entry in entries:
            text, faults = _text_faults(entry)
            faults += _duplicate_faults(owners[entry.id])
            faults += _audio_faults(entry, text, facts[entry.audio], data)
            bad += [BadItem(name, entry.id, reason, detail) for reason, detail in faults]
            if not faults:
                good[name].append(_utterance(entry, text, facts[entry.audio]))
    return ValidatedSplits(good, bad)


def too_dense(
    splits: Splits,
    units: Units,
    features: FeatureConfig,
    fastest_speed: float = 1.0,
    subsampling: int = 4,
) -> list[BadItem]:
    """Utterances whose units and repeats outnumber their encoder frames at the fastest speed."""
    bad = []
    for name, utterances in splits.items():
        for utterance in utterances:
            unit_ids = units.encode(utterance.text)
            if not fits_ctc(unit_ids, utterance.seconds, features, fastest_speed, subsampling):
                needed = frames_needed(unit_ids)
                frames = encoder_frames(utterance.seconds, features, fastest_speed, subsampling)
                length = f"{encoder_frame_milliseconds(features, subsampling):g} ms"
                detail = f"{needed} units and repeats, {frames} frames of {length} at speed {fastest_speed:g}"
                bad.append(BadItem(name, utterance.id, "more units than frames", detail))
    return bad


def shared_speakers(splits: Splits) -> list[str]:
    """A warning line for every split whose speakers also speak in training."""
    speakers = {name: {one.speaker for one in utterances} - {""} for name, utterances in splits.items()}
    lines = []
    for name, own in speakers.items():
        shared = sorted(own & speakers["train"])
        if name != "train" and shared:
            lines.append(
                f"{name} shares {len(shared)} of its {len(own)} speakers with train "
                f"({', '.join(shared[:5])}{', ...' if len(shared) > 5 else ''}): its error rate will flatter"
            )
    return lines


def counts_by_reason(bad: Sequence[BadItem]) -> str:
    """`12 missing audio, 3 empty transcript`, the commonest first."""
    return ", ".join(f"{count} {reason}" for reason, count in Counter(i.reason for i in bad).most_common())


def write_report(path: Path, bad: Sequence[BadItem]) -> None:
    """Write split, id and reason of every bad item as tab-separated lines, whole or not at all."""
    rows = [("split", "id", "reason")]
    rows += [(i.split, i.id, f"{i.reason}: {i.detail}" if i.detail else i.reason) for i in bad]
    lines = ("\t".join(" ".join(field.split()) for field in row) for row in rows)
    write_whole(path, "\n".join(lines) + "\n")


def _decode_all(audio: set[str], data_root: Path, workers: int) -> dict[str, AudioFacts]:
    files = sorted(audio)
    quiet = silent_decoders() if any(name.lower().endswith(".mp3") for name in files) else nullcontext()
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
    try:
        with quiet, progress("decoding audio", total=len(files), unit="files") as advance:
            facts = {}
            for name, found in zip(
                files, pool.map(lambda name: check_audio(data_root / name), files), strict=True
            ):
                facts[name] = found
                advance(1)
            return facts
    finally:
        pool.shutdown(cancel_futures=True)


def _text_faults(entry: RawUtterance) -> tuple[str, list[tuple[str, str]]]:
    try:
        text = normalise(entry.text)
    except UnspeakableText as error:
        return "", [("unknown characters", str(error))]
    return text, [] if text else [("empty transcript", repr(entry.text) if entry.text else "")]


def _duplicate_faults(owners: Sequence[str]) -> list[tuple[str, str]]:
    if len(owners) == 1:
        return []
    return [("duplicate id", " and ".join(f"{n}x in {name}" for name, n in Counter(owners).items()))]


def _audio_faults(
    entry: RawUtterance, text: str, facts: AudioFacts, data: DataConfig
) -> list[tuple[str, str]]:
    if facts.fault:
        return [(facts.fault, f"{entry.audio}: {facts.detail}")]
    faults = []
    if facts.sample_rate_hz != data.sample_rate_hz:
        faults.append(("wrong rate", f"{facts.sample_rate_hz} Hz, expected {data.sample_rate_hz} Hz"))
    if facts.num_channels != 1:
        faults.append(("wrong channels", f"{facts.num_channels} channels, expected 1"))
    seconds = facts.num_samples / facts.sample_rate_hz
    if seconds < data.min_seconds:
        faults.append(("too short", f"{seconds:.2f} s, at least {data.min_seconds:g} s"))
    elif seconds > data.max_seconds:
        faults.append(("too long", f"{seconds:.2f} s, at most {data.max_seconds:g} s"))
    elif len(text) / seconds > data.max_characters_per_second:
        speed, limit = len(text) / seconds, data.max_characters_per_second
        faults.append(("too many characters", f"{speed:.1f} per second, at most {limit:g}"))
    tolerance = max(_DURATION_TOLERANCE_SECONDS, _DURATION_TOLERANCE_FRACTION * seconds)
    if entry.seconds is not None and abs(entry.seconds - seconds) > tolerance:
        faults.append(("wrong duration", f"declared {entry.seconds:.2f} s, decoded {seconds:.2f} s"))
    return faults


def _utterance(entry: RawUtterance, text: str, facts: AudioFacts) -> Utterance:
    return Utterance(
        id=entry.id,
        audio=entry.audio,
        text=text,
        seconds=round(facts.num_samples / facts.sample_rate_hz, 6),
        speaker=entry.speaker,
        chapter=entry.chapter,
        position=entry.position,
    )
