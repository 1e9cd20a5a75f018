"""What the alignment browser shows: each run's words below the reference, and the teacher's choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.comparison.systems import SharedSplit, System
from student.metrics import WordPair
from teacher_cache.store.inspection import InspectedPassage

MOST_UTTERANCES = 400  # of a split: those with the most errors and disagreements
MOST_CHOICES = 5


def browser_entries(
    shared: SharedSplit, systems: Sequence[System], inspected: Mapping[str, InspectedPassage]
) -> list[dict[str, Any]]:
    """Utterances, JSON-ready, worst first: where runs disagree, then where they err.

    Each holds id, speaker, words (of the reference), runs and teacher. A run is name, errors and cells: for
    each word what was put in before it and what was heard there ("" for nothing); one more holds what was
    put in behind the last. teacher : for each word its pieces, each with the likeliest choices; [] where the
    cache has none.
    inspected : by utterance id
    """
    entries = []
    for row, name in enumerate(shared.ids):
        runs = [
            {"name": one.name, "errors": sum(pair.operation != "" for pair in pairs), "cells": _cells(pairs)}
            for system in systems
            for one, pairs in zip(system.runs, (rows[row] for rows in system.alignments), strict=True)
        ]
        errors = [int(run["errors"]) for run in runs]
        if any(errors):
            entries.append((max(errors) - min(errors), sum(errors), row, name, runs))
    entries.sort(key=lambda entry: (-entry[0], -entry[1], entry[2]))
    return [
        {
            "id": name,
            "speaker": shared.speakers[row] if shared.speakers else "",
            "words": shared.references[row].split(),
            "runs": runs,
            "teacher": _choices(shared.references[row].split(), inspected.get(name)),
        }
        for _, _, row, name, runs in entries[:MOST_UTTERANCES]
    ]


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


def _choices(words: Sequence[str], passage: InspectedPassage | None) -> list[list[dict[str, Any]]]:
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
