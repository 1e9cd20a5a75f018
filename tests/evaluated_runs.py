"""Evaluated runs without a training: folders as `bert2ctc evaluate` leaves them, from texts alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from student.data.manifest import Utterance, write_manifest
from student.decoding.names import GREEDY
from student.inference.evaluation_files import SplitTexts, evaluation_folder, split_scores, write_split

CONFIG: dict[str, Any] = {
    "data": {"splits": {"train": {}, "dev": {}, "test": {}}},
    "trainer": {"seed": 1, "max_steps": 20},
    "objective": {"ctc_weight": 1.0},
}
VERSIONS = {"torch": "2.11.0", "bert2ctc": "0.1.0"}


def utterances_of(texts: Sequence[str], per_speaker: int = 4) -> list[Utterance]:
    """Utterances with speakers, whose ids begin with theirs."""
    return [
        Utterance(
            id=f"{number // per_speaker}-1-{number}",
            audio="a.flac",
            text=text,
            seconds=2.0,
            speaker=str(number // per_speaker),
        )
        for number, text in enumerate(texts)
    ]


def evaluated_run(
    folder: Path,
    utterances: Sequence[Utterance],
    heard: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    decoder: str = GREEDY,
    split: str = "test",
    trained_on: Sequence[str] = (),
) -> Path:
    """A run folder with record, metrics and one evaluated split; tap 1 hears the first word alone.

    settings : table -> keys that differ from CONFIG     trained_on : texts of the training manifest
    """
    tables = {name: {**table, **(settings or {}).get(name, {})} for name, table in CONFIG.items()}
    tables |= {name: dict(table) for name, table in (settings or {}).items() if name not in tables}
    prepared = folder.parent / "prepared"
    if trained_on:
        write_manifest(prepared / "train.jsonl", utterances_of(trained_on))
    record = {"config": tables, "prepared": str(prepared), "cache": "", "versions": VERSIONS}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(record | {"python": "3.11.7"}), encoding="utf-8")
    entries = [
        {"step": step, "kind": kind, "loss": 9.0 / step, "ctc": 8.0 / step, "ctc_tap1": 9.0 / step}
        | ({"wer": 1 / step, "wer_tap1": 2 / step} if kind == "dev" else {})
        for step in (10, 20)
        for kind in ("train", "dev")
    ]
    lines = "".join(json.dumps(entry) + "\n" for entry in entries)
    (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
    texts = SplitTexts(utterances, {1: [" ".join(text.split()[:1]) for text in heard], 2: list(heard)})
    speed = {
        "decoder": decoder,
        "encoder_seconds": 1.0,
        "decoder_seconds": 0.5,
        "audio_seconds": 8.0,
        "real_time_factor": 1.5 / 8,
        "device": "cpu",
        "threads": 1,
    }
    scores = split_scores(texts) | {"checkpoint": "final.pt", "speed": speed}
    write_split(evaluation_folder(folder, decoder), split, texts, scores)
    return folder
