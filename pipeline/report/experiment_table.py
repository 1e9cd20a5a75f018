"""What an experiment found, as tables for people: a row a student and seed, then what parts the students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from pipeline.console import table

Figures = Mapping[str, float | None]  # None: not measured

_KINDS = ("seen", "teacher_only")


def experiment_tables(results: Mapping[str, Any]) -> list[Any]:
    """Tables and lines of a results.json: rows by corpus, a mean where a student has several seeds."""
    rows = results["rows"]
    corpora = list(dict.fromkeys(row["corpus"] for row in rows))
    shown = []
    for corpus in corpora:
        own = [row for row in rows if row["corpus"] == corpus]
        shown.append(_row_table(corpus if len(corpora) > 1 else "", own))
        shown += _notes(own, _accuracy(results, corpus))
        shown += _differences(results, [corpus])
    return shown + (_differences(results, corpora) if len(corpora) > 1 else [])


def _row_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    has_seeds = len({row["seed"] for row in rows}) > 1
    is_demo = "homophone_error_rate" in rows[0]
    lines = []
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        figures = [_figures(row) for row in own]
        for row, one in zip(own, figures, strict=True):
            lines.append([name, *([str(row["seed"])] if has_seeds else []), *_cells(one, is_demo)])
        if len(own) > 1:
            lines.append([name, "mean", *_cells(_mean(figures), is_demo)])
    of_demo = ["wrong %\nseen / t.-only", "partner %\nnear / far", "neither %\nseen / t.-only"]
    columns = ["student", *(["seed"] if has_seeds else []), "WER % (95 %)", "CER %"]
    return table(title, [*columns, *(of_demo if is_demo else []), "steps", "seconds"], lines)


def _figures(row: Mapping[str, Any]) -> Figures:
    low, high = row.get("intervals", {}).get("wer") or (None, None)
    found = {key: row[key] for key in ("wer", "cer", "steps", "seconds")} | {"low": low, "high": high}
    for kind in _KINDS:
        found[f"wrong {kind}"] = row.get("homophone_error_rate", {}).get(kind)
        found[f"neither {kind}"] = row.get("neither_rate", {}).get(kind, {}).get("all")
    for reach in ("near", "far"):
        found[f"partner {reach}"] = _at_hidden_cues(row, "partner_rate").get(reach)
    return found


def _mean(figures: Sequence[Figures]) -> Figures:
    """Over seeds; without an interval, which is not the mean of intervals."""
    means: dict[str, float | None] = {}
    for key in figures[0].keys() - {"low", "high"}:
        measured = [value for one in figures if (value := one[key]) is not None]
        means[key] = fmean(measured) if len(measured) == len(figures) else None
    return means


def _cells(figures: Figures, is_demo: bool) -> list[str]:
    low, high = figures.get("low"), figures.get("high")
    interval = "" if low is None else f" ({_percent(low)}-{_percent(high)})"
    pairs = [
        ("wrong seen", "wrong teacher_only"),
        ("partner near", "partner far"),
        ("neither seen", "neither teacher_only"),
    ]
    of_demo = [" / ".join(_percent(figures[key]) for key in pair) for pair in pairs]
    rates = [_percent(figures["wer"]) + interval, _percent(figures["cer"]), *(of_demo if is_demo else [])]
    return [*rates, f"{figures['steps']:,.0f}", f"{figures['seconds']:.0f}"]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _accuracy(results: Mapping[str, Any], corpus: str) -> Mapping[str, float]:
    accuracy: Mapping[str, Any] = results["teacher_site_accuracy"]
    own: Mapping[str, float] = accuracy.get(corpus, accuracy)
    return own


def _notes(rows: Sequence[Mapping[str, Any]], accuracy: Mapping[str, float]) -> list[str]:
    """What the columns of a demo corpus mean, and how many sites stand behind them."""
    if "homophone_error_rate" not in rows[0]:
        return []
    sites = rows[0]["homophone_sites"]
    return [
        *(
            f"{kind.replace('_', '-')} homophones: {sites[kind]} sites, the teacher alone "
            f"{1 - accuracy[kind]:.1%} wrong"
            for kind in sites
        ),
        "wrong: the aligned word is another or missing; neither: neither spelling of the pair stands there",
        "partner: the other spelling at teacher-only sites where either stands, cue near or far (chance: 50)",
    ]


def _differences(results: Mapping[str, Any], corpora: Sequence[str]) -> list[Any]:
    """What parts the students on these corpora, taken together."""
    differences = [one for one in results["differences"] if one["corpora"] == corpora]
    title = "all corpora" if len(corpora) > 1 else ""
    return [_difference_table(title, differences)] if differences else []


def _difference_table(title: str, differences: Sequence[Mapping[str, Any]]) -> Any:
    columns = ["teacher-only, points (95 %)", "WER", "partner near", "partner far", "neither"]
    rows = [
        [
            f"{one['student']} - {one['minus']}",
            _points(one.get("wer")),
            *(_points(_at_hidden_cues(one, "partner_rate").get(reach)) for reach in ("near", "far")),
            _points(_at_hidden_cues(one, "neither_rate").get("all")),
        ]
        for one in differences
    ]
    return table(title, columns, rows)


def _at_hidden_cues(figures: Mapping[str, Any], rate: str) -> Mapping[str, Any]:
    """By reach, where only the teacher knows the cue."""
    found: Mapping[str, Any] = figures.get(rate, {}).get("teacher_only", {})
    return found


def _points(found: Mapping[str, Any] | None) -> str:
    if not found:
        return "-"
    low, high = (100 * bound for bound in found["interval"])
    return f"{100 * found['difference']:+.1f} ({low:.1f}, {high:.1f})"
