"""What the alignment browser shows: each run's words below the reference, and the teacher's choices."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.comparison.systems import SharedSplit, System
from student.decoding.names import GREEDY
from student.metrics import WordPair
from teacher_cache.store.inspection import InspectedPassage

MOST_UTTERANCES = 400  # of a split: those with the most errors and disagreements
MOST_CHOICES = 5
LEAST_PROBABILITY = 0.001  # of a choice that is shown, unless it is what stands there


def browser_entries(
    shared: SharedSplit, systems: Sequence[System], inspected: Mapping[str, InspectedPassage]
) -> list[dict[str, Any]]:
    """Utterances, JSON-ready, worst first: where runs disagree, then where they err.

    Each holds id, speaker, words (of the reference), runs and teacher. A run is name, full name, cells: for
    each word what was put in before it and what was heard there ("" for nothing); one more holds what was
    put in behind the last. teacher : for each word its pieces, each with the likeliest choices; [] where the
    cache has none.
    inspected : by utterance id
    """
    names = [
        one.name + ("" if system.decoder == GREEDY else f"@{system.decoder}")
        for system in systems
        for one in system.runs
    ]
    alignments = [rows for system in systems for rows in system.alignments]
    errors = np.concatenate([system.errors for system in systems])
    labels = short_names(names)
    entries = []
    for row, name in enumerate(shared.ids):
        if errors[:, row].any():
            runs = [
                {"name": label, "full": full, "cells": _cells(rows[row])}
                for label, full, rows in zip(labels, names, alignments, strict=True)
            ]
            entries.append((int(np.ptp(errors[:, row])), int(errors[:, row].sum()), row, name, runs))
    entries.sort(key=lambda entry: (-entry[0], -entry[1], entry[2]))
    return [
        {
            "id": name,
            "speaker": shared.speakers[row] if shared.speakers else "",
            "words": shared.references[row].split(),
            "runs": runs,
            "teacher": choices_by_word(shared.references[row].split(), inspected.get(name)),
        }
        for _, _, row, name, runs in entries[:MOST_UTTERANCES]
    ]


def short_names(names: Sequence[str]) -> list[str]:
    """The names without the words that all begin and end with, as long as something is left of each."""
    parts = [re.split(r"(?<=[-/_@])", name) for name in names]
    while len(names) > 1 and min(map(len, parts)) > 1 and len({part[0] for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    reversed_parts = [re.split(r"(?=[-/_@])", "".join(part)) for part in parts]
    while len(names) > 1 and min(map(len, reversed_parts)) > 1 and len({p[-1] for p in reversed_parts}) == 1:
        reversed_parts = [part[:-1] for part in reversed_parts]
    return ["".join(part) for part in reversed_parts]


def _cells(pairs: Sequence[WordPair]) -> list[list[str]]:
    """[put in before, heard] for each word, and [put in] behind the last."""
    cells, before = [], []
    for pair in pairs:
        if pair.reference is None:
            before.append(pair.hypothesis or "")
        else:
            cells.append([" ".join(before), pair.hypothesis or ""])
            before = []
    return [*cells, [" ".join(before)]]


def choices_by_word(words: Sequence[str], passage: InspectedPassage | None) -> list[list[dict[str, Any]]]:
    """By word its pieces, as long as they spell the words in order; else all of them at the first word."""
    if passage is None:
        return []
    pieces = [
        {
            "piece": token.piece,
            "percent": round(100 * token.probability, 1),
            "choices": [
                [candidate.piece, round(100 * candidate.probability, 1)]
                for candidate in token.candidates[:MOST_CHOICES]
                if candidate.is_gold or candidate.probability >= LEAST_PROBABILITY
            ],
        }
        for token in passage.tokens
    ]
    found, position = [], 0
    for word in words:
        own, spelled = [], ""
        while position < len(pieces) and len(spelled) < len(word):
            own.append(pieces[position])
            spelled += str(pieces[position]["piece"]).removeprefix("##").removeprefix("▁")
            position += 1
        if spelled.lower() != word.lower():
            return [pieces, *([] for _ in words[1:])]
        found.append(own)
    return found
