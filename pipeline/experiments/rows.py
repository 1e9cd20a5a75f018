"""The rows of an experiment's table, a student by a decoder each, and the differences between them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pipeline.config import ExperimentConfig
from pipeline.corpus.prepared import sound_preparation
from pipeline.demo.homophones import answers_of, counts_of, homophone_figures
from pipeline.error_rates.intervals import bootstrap_ratios, interval
from pipeline.error_rates.paired import Counts, differences_of
from pipeline.error_rates.transcripts import Transcripts, read_transcripts
from pipeline.error_rates.word_errors import word_counts
from pipeline.experiments.ladder import Ladder, Training
from pipeline.paths import Roots
from student.data.manifest import read_manifest
from student.decoding.names import GREEDY
from student.inference.evaluation_files import evaluation_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run by one decoder, on the first split that the ladder evaluates.

    counts : what its intervals are made of     entry : as results.json has it
    """

    counts: Counts
    entry: Mapping[str, Any]

    @property
    def student(self) -> str:
        """Its name in the ladder, or that of a run made elsewhere."""
        return str(self.entry["student"])

    @property
    def decoder(self) -> str:
        """By which it was heard."""
        return str(self.entry["decoder"])

    @property
    def corpus(self) -> str:
        """The ladder's name for it."""
        return str(self.entry["corpus"])

    @property
    def seed(self) -> int:
        """Of the training."""
        return int(self.entry["seed"])


def row_label(student: str, decoder: str) -> str:
    """What a row is called: the student, and how it was decoded unless greedily."""
    return student if decoder == GREEDY else f"{student} + {decoder}"


def rows_of(
    training: Training,
    ladder: Ladder,
    roots: Roots,
    trained: Mapping[str, Any],
    evaluated: Mapping[str, Mapping[str, Any]],
) -> list[Row]:
    """A run's rows, one a decoder. trained : what the training said     evaluated : by decoder and split"""
    rows = []
    for decoder in ladder.decoders[training.student]:
        folder = evaluation_folder(roots.runs / ladder.name / training.run, decoder)
        split, scores = ladder.evaluate[0], evaluated[decoder]
        figures, counts = judged(read_transcripts(folder, split), split, training.config, roots)
        first = scores[split]
        entry = {
            "name": row_label(training.student, decoder),
            "student": training.student,
            "decoder": decoder,
            "corpus": training.corpus_name,
            "seed": training.seed,
            "run": training.run,
            "begins_with": training.begins_with,
            "wer": first["wer"],
            "cer": first["cer"],
            "steps": trained["steps"],
            "seconds": round(float(trained["seconds"]), 1),
            "encoder_seconds": first["speed"]["encoder_seconds"],
            "decoder_seconds": first["speed"]["decoder_seconds"],
            "splits": scores,
            **figures,
        }
        rows.append(Row(counts=counts, entry=entry))
    return rows


def judged(
    transcripts: Transcripts, split: str, config: ExperimentConfig, roots: Roots
) -> tuple[dict[str, Any], Counts]:
    """What transcripts show beyond error rates: homophones of a demo corpus, intervals; and their counts."""
    if config.demo_corpus is not None:
        answers = answers_of(transcripts, split, roots.data / config.data.corpus)
        return dict(homophone_figures(answers)), counts_of(answers)
    utterances = read_manifest(sound_preparation(config, roots) / f"{split}.jsonl")
    counts = word_counts(transcripts, utterances, "evaluate the whole split with `bert2ctc evaluate RUN`")
    return {"intervals": {"wer": interval(bootstrap_ratios(*counts["wer",])[:, 0])}}, counts


def differences_between(rows: Sequence[Row], bases: Collection[str]) -> list[dict[str, Any]]:
    """Differences by `_pairs`, on each corpus, and on all together where there are several.

    bases : students that only serve as the beginning of others, which are left out
    """
    compared = [row for row in rows if row.student not in bases]
    corpora = list(dict.fromkeys(row.corpus for row in compared))
    together = [(corpus,) for corpus in corpora] + ([tuple(corpora)] if len(corpora) > 1 else [])
    found = []
    for chosen in together:
        here = [row for row in compared if row.corpus in chosen]
        for ours, minus in _pairs(here):
            sides = [[row for row in here if (row.student, row.decoder) == key] for key in (ours, minus)]
            if any({row.corpus for row in side} != set(chosen) for side in sides):
                continue  # a run made elsewhere may be of one corpus alone
            found.append(
                {
                    "student": row_label(*ours),
                    "minus": row_label(*minus),
                    "corpora": list(chosen),
                    "seeds": sorted({row.seed for side in sides for row in side}),
                }
                | differences_of(*(_by_corpus(side) for side in sides))
            )
    return found


_Key = tuple[str, str]  # student, decoder


def _pairs(rows: Sequence[Row]) -> list[tuple[_Key, _Key]]:
    """Each student minus the first by each of its decoders, and minus the one before; then, with one decoder
    both, minus the first; last each by other decoders minus itself by its own first."""
    decoders: dict[str, list[str]] = {}
    for row in rows:
        decoders.setdefault(row.student, [])
        if row.decoder not in decoders[row.student]:
            decoders[row.student].append(row.decoder)
    own = {student: (student, names[0]) for student, names in decoders.items()}
    pairs: list[tuple[_Key, _Key]] = []
    if decoders:
        first = next(iter(decoders))
        for before, student in pairwise(decoders):
            pairs += [(own[student], (first, decoder)) for decoder in decoders[first]]
            pairs.append((own[student], own[before]))
        for student, names in list(decoders.items())[1:]:
            pairs += [((student, one), (first, one)) for one in names if one in decoders[first]]
        for student, names in decoders.items():
            pairs += [((student, one), own[student]) for one in names[1:]]
    return list(dict.fromkeys(pairs))


def _by_corpus(rows: Sequence[Row]) -> dict[str, list[Counts]]:
    found: dict[str, list[Counts]] = {}
    for row in rows:
        found.setdefault(row.corpus, []).append(row.counts)
    return found
