"""How often a homophone is written in the spelling of its partner: the figure that the demo is about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np

from pipeline.demo.grammar import KINDS, REACHES
from pipeline.demo.sites import Site, read_sites
from pipeline.error_rates.intervals import bootstrap_ratios, interval
from pipeline.error_rates.paired import Counted, Counts, Figure, put
from pipeline.error_rates.transcripts import Transcripts
from pipeline.errors import PipelineError

ALL = "all"  # near and far together


@dataclass(frozen=True, slots=True)
class HomophoneScore:
    """Counts over the sites of one kind.

    right : the aligned word is the right spelling     partner : it is the other one of the pair
    chance : error rate of one who hears every word and always writes each pair's commoner spelling
    """

    sites: int
    right: int
    partner: int
    chance: float

    @property
    def error_rate(self) -> float:
        """Sites where the right spelling does not stand, over sites."""
        return 1 - self.right / self.sites

    @property
    def partner_share(self) -> float:
        """Sites where the partner stands, over sites."""
        return self.partner / self.sites


@dataclass(frozen=True, slots=True)
class Answers:
    """What one run wrote in a split, utterance by utterance, each with one site.

    is_right, is_partner : bool (U,)     errors, words : int (U,), of the whole utterance
    """

    sites: tuple[Site, ...]
    is_right: np.ndarray
    is_partner: np.ndarray
    errors: np.ndarray
    words: np.ndarray


def answers_at(
    sites: Sequence[Site], references: Mapping[str, str], hypotheses: Mapping[str, str]
) -> Answers:
    """Right or not at each site and errors of its utterance, from jiwer's alignment.

    references, hypotheses : text by utterance id; more utterances than sites may be given
    Raises PipelineError where a site's utterance is missing or its reference holds another word there.
    """
    missing = [site.id for site in sites if site.id not in references or site.id not in hypotheses]
    if missing:
        raise PipelineError(
            f"{len(missing)} sites were not evaluated, {missing[0]} first; evaluate the whole split"
        )
    spoken = [references[site.id].lower() for site in sites]
    for site, text in zip(sites, spoken, strict=True):
        if text.split()[site.word_index : site.word_index + 1] != [site.word]:
            raise PipelineError(
                f"{site.id}: word {site.word_index} of {text!r} is not {site.word!r}; other corpus?"
            )
    aligned = jiwer.process_words(spoken, [hypotheses[site.id].lower() for site in sites])
    written = [
        _word_at(site.word_index, chunks, hypothesis)
        for site, chunks, hypothesis in zip(sites, aligned.alignments, aligned.hypotheses, strict=True)
    ]
    return Answers(
        sites=tuple(sites),
        is_right=np.array([word == site.word for site, word in zip(sites, written, strict=True)]),
        is_partner=np.array([word == site.partner for site, word in zip(sites, written, strict=True)]),
        errors=np.array([_errors(chunks) for chunks in aligned.alignments]),
        words=np.array([len(text.split()) for text in spoken]),
    )


def homophone_report(answers: Answers) -> dict[str, HomophoneScore]:
    """Counts by kind."""
    report = {}
    for kind in KINDS:
        chosen = np.array([site.kind == kind for site in answers.sites])
        if chosen.any():
            report[kind] = HomophoneScore(
                sites=int(chosen.sum()),
                right=int(answers.is_right[chosen].sum()),
                partner=int(answers.is_partner[chosen].sum()),
                chance=_chance([site for site in answers.sites if site.kind == kind]),
            )
    return report


def answers_of(transcripts: Transcripts, split: str, corpus: Path) -> Answers:
    """`answers_at` of a demo corpus' split. Raises PipelineError where its sites were not evaluated."""
    return answers_at(read_sites(corpus, split), transcripts.references, transcripts.hypotheses)


def homophone_figures(answers: Answers) -> dict[str, dict[str, Any]]:
    """Homophone figures of an evaluated run, each by kind.

    homophone_error_rate, homophone_partner_rate (of all sites), homophone_chance, homophone_sites : {kind: x}
    partner_rate : {kind: {"all", "near", "far": partner / (partner + right)}}, chance 1/2; None where neither
        spelling was written     neither_rate : the same, the share of sites where neither stands
    intervals : {"wer": [low, high], "partner_rate", "neither_rate": as above}, 95 %, cues drawn
    """
    report = homophone_report(answers)
    figures: dict[str, dict[str, Any]] = {
        "homophone_error_rate": {kind: score.error_rate for kind, score in report.items()},
        "homophone_partner_rate": {kind: score.partner_share for kind, score in report.items()},
        "homophone_chance": {kind: score.chance for kind, score in report.items()},
        "homophone_sites": {kind: score.sites for kind, score in report.items()},
        "partner_rate": {},
        "neither_rate": {},
        "intervals": {},
    }
    for figure, (above, below, cues) in counts_of(answers).items():
        value = above.sum() / below.sum() if below.any() else None
        bounds = None if value is None else interval(bootstrap_ratios(above, below, cues)[:, 0])
        put(figures["intervals"], figure, bounds)
        if len(figure) > 1:
            put(figures, figure, value)
    return figures


def counts_of(answers: Answers) -> Counts:
    """("wer",), ("partner_rate" | "neither_rate", kind, reach or "all"); the blocks are cues."""
    cues = np.array([site.cue for site in answers.sites])
    counts: dict[Figure, Counted] = {("wer",): Counted(answers.errors, answers.words, cues.tolist())}
    is_either = answers.is_right | answers.is_partner
    for kind in KINDS:
        of_kind = np.array([site.kind == kind for site in answers.sites])
        for reach in (ALL, *REACHES):
            chosen = of_kind & np.array([reach in (ALL, site.reach) for site in answers.sites])
            if not chosen.any():
                continue
            of_cue, either = cues[chosen].tolist(), is_either[chosen].astype(int)
            partner = answers.is_partner[chosen].astype(int)
            counts["partner_rate", kind, reach] = Counted(partner, either, of_cue)
            counts["neither_rate", kind, reach] = Counted(1 - either, np.ones_like(either), of_cue)
    return counts


def _errors(chunks: Sequence[Any]) -> int:
    """Substitutions, deletions and insertions of one alignment."""
    return sum(
        max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
        for chunk in chunks
        if chunk.type != "equal"
    )


def _word_at(index: int, chunks: Sequence[Any], hypothesis: Sequence[str]) -> str | None:
    """The hypothesis word that is aligned with reference word `index`; None where it is deleted."""
    for chunk in chunks:
        if chunk.type != "insert" and chunk.ref_start_idx <= index < chunk.ref_end_idx:
            position = chunk.hyp_start_idx + index - chunk.ref_start_idx
            return None if chunk.type == "delete" else hypothesis[position]
    return None


def _chance(sites: Sequence[Site]) -> float:
    counts = Counter((min(site.word, site.partner), site.word) for site in sites)
    commonest: dict[str, int] = {}
    for (pair, _), count in counts.items():
        commonest[pair] = max(commonest.get(pair, 0), count)
    return 1 - sum(commonest.values()) / len(sites)
