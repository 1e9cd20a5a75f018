"""A comparison for people: rates, differences with intervals, and the words that runs disagree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.console import table

FEW_SPEAKERS = 20
_RARE = "rare"


def comparison_lines(result: Mapping[str, Any]) -> list[Any]:
    """Tables and notes of what `pipeline.stages.compare.comparison` found."""
    lines = [
        f"{result['split']}: {result['utterances']:,} utterances, {result['words']:,} words, "
        f"{result['speakers'] or 'unknown'} speakers",
        _rate_table(result["rates"]),
        _difference_table(result["differences"]),
        *comparison_notes(result),
    ]
    for found in result["disagreements"]:
        lines.append(
            f"{found['ours']} and {found['minus']} disagree on {found['disagreed']:,} words, most on:"
        )
        lines.append(_word_table(found["words"]))
        lines += [_group_table(found["groups"])] if found["groups"] else []
    return lines


def comparison_notes(result: Mapping[str, Any]) -> list[str]:
    """What a reader of the figures has to know."""
    notes = []
    if result["speakers"] < 2:
        notes.append("no interval over speakers: fewer than two are known")
    elif result["speakers"] < FEW_SPEAKERS:
        notes.append(
            f"{result['speakers']} speakers are few: an interval over them tends to be too narrow, and says "
            "little of others"
        )
    if any(len(rate["seeds"]) > 1 for rate in result["rates"]):
        notes.append("rates are means over seeds; intervals hold the noise of training too, p does not")
    else:
        notes.append("one seed each: intervals and p are of these trained students, not of the methods")
    notes += [
        f"{base} is in no difference: others begin with its weights; name it, and them, to compare them"
        for base in result["bases"]
    ]
    if any(one["p"] is None for one in result["differences"]):
        notes.append("no p with fewer than 50 segments that hold an error")
    if not result["knows_training_counts"]:
        notes.append("no word is named rare: the training transcripts are not at hand")
    if not result["knows_homophones"]:
        notes.append("no homophone is named: --homophones FILE lists words that sound alike, a line each")
    return notes


def _rate_table(rates: Sequence[Mapping[str, Any]]) -> Any:
    rows = [
        [
            rate["name"],
            ", ".join(map(str, rate["seeds"])),
            f"{100 * rate['wer']:.2f}",
            span(rate["by_speakers"]),
            span(rate["by_utterances"]),
        ]
        for rate in rates
    ]
    return table("", ["", "seeds", "WER %", "95 %, speakers", "95 %, utterances"], rows)


def _difference_table(differences: Sequence[Mapping[str, Any]]) -> Any:
    rows = [
        [
            f"{one['ours']} - {one['minus']}",
            f"{100 * one['difference']:+.2f}",
            span(one["by_speakers"]),
            span(one["by_utterances"]),
            "-" if one["relative"] is None else f"{100 * one['relative']:+.1f}",
            chance(one["p"]),
            chance(one["corrected_p"]),
            f"{one['segments']:,}",
        ]
        for one in differences
    ]
    columns = ["", "points", "95 %, speakers", "95 %, utterances", "relative %", "p", "p, Holm", "segments"]
    return table("", columns, rows)


def _word_table(words: Sequence[Mapping[str, Any]]) -> Any:
    columns = ["word", "said", "first right\nalone", "second right\nalone", "heard by first", "by second", ""]
    rows = [
        [
            word["word"],
            f"{word['count']:,}",
            f"{word['better']:g}",
            f"{word['worse']:g}",
            *(heard_instead(heard) for heard in word["heard"]),
            word_remark(word),
        ]
        for word in words
    ]
    return table("", columns, rows)


def _group_table(groups: Sequence[Mapping[str, Any]]) -> Any:
    rows = [
        [
            group["name"],
            f"{group['words']:,}",
            f"{100 * group['ours']:.2f}",
            f"{100 * group['minus']:.2f}",
            f"{100 * (group['ours'] - group['minus']):+.2f}",
            span(group["interval"]),
        ]
        for group in groups
    ]
    return table("", ["words", "said", "first wrong %", "second wrong %", "points", "95 %"], rows)


def heard_instead(heard: Mapping[str, int], most: int = 2) -> str:
    """What was written instead, most often first; a word that was left out is "(nothing)"."""
    return ", ".join(f"{word or '(nothing)'} {count:,}" for word, count in list(heard.items())[:most]) or "-"


def word_remark(word: Mapping[str, Any]) -> str:
    """Whether it is rare, and what it sounds like."""
    told = [f"rare: {word['training_count']} in training"] if word["is_rare"] else []
    told += [f"sounds like {', '.join(word['homophones'])}"] if word["homophones"] else []
    return "; ".join(told)


def span(bounds: Sequence[float] | None) -> str:
    """Both ends in points."""
    return "-" if bounds is None else f"{100 * bounds[0]:.2f} to {100 * bounds[1]:.2f}"


def chance(p: float | None) -> str:
    """A p-value; none below 0.0001 is told apart."""
    if p is None:
        return "-"
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"
