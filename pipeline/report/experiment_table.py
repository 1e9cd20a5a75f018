"""What an experiment found, as tables for people: a row a student, decoder and seed, then what parts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from pipeline.console import table
from student.decoding.names import GREEDY

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
    has_decoders = any(_decoder(row) != GREEDY for row in rows)
    lines = []
    for name in _names_by_student(rows):
        own = [row for row in rows if row["name"] == name]
        figures = [_figures(row) for row in own]
        seeds = [str(row["seed"]) for row in own]
        if len(own) > 1:
            figures, seeds = [*figures, _mean(figures)], [*seeds, "mean"]
        for seed, one in zip(seeds, figures, strict=True):
            cells = _cells(one, is_demo, _decoder(own[0]) == GREEDY)
            decoding = [_number(one["decoder_seconds"], ".1f")] if has_decoders else []
            lines.append([name, *([seed] if has_seeds else []), *cells, *decoding])
    of_demo = ["wrong %\nseen / t.-only", "partner %\nnear / far", "neither %\nseen / t.-only"]
    columns = ["student", *(["seed"] if has_seeds else []), "WER % (95 %)", "CER %"]
    columns += [*(of_demo if is_demo else []), "steps", "seconds", *(["decoder\ns"] if has_decoders else [])]
    return table(title, columns, lines)


def _decoder(row: Mapping[str, Any]) -> str:
    decoder: str = row.get("decoder", GREEDY)  # files of before had greedy alone
    return decoder


def _names_by_student(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of rows, a student's decoders one below the other, in the order of the rows."""
    by_student: dict[str, list[str]] = {}
    for row in rows:
        by_student.setdefault(row.get("student", row["name"]), []).append(row["name"])
    return list(dict.fromkeys(name for names in by_student.values() for name in names))


def _figures(row: Mapping[str, Any]) -> Figures:
    low, high = row.get("intervals", {}).get("wer") or (None, None)
    found = {key: row[key] for key in ("wer", "cer", "steps", "seconds")} | {"low": low, "high": high}
    found["decoder_seconds"] = row.get("decoder_seconds")
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


def _cells(figures: Figures, is_demo: bool, is_greedy: bool) -> list[str]:
    """Rates, and of what was decoded greedily the training's steps and seconds too."""
    low, high = figures.get("low"), figures.get("high")
    interval = "" if low is None else f" ({_percent(low)}-{_percent(high)})"
    pairs = [
        ("wrong seen", "wrong teacher_only"),
        ("partner near", "partner far"),
        ("neither seen", "neither teacher_only"),
    ]
    of_demo = [" / ".join(_percent(figures[key]) for key in pair) for pair in pairs]
    rates = [_percent(figures["wer"]) + interval, _percent(figures["cer"]), *(of_demo if is_demo else [])]
    training = [_number(figures["steps"], ",.0f"), _number(figures["seconds"], ".0f")]
    return [*rates, *(training if is_greedy else ["", ""])]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


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
    is_demo = any("partner_rate" in one for one in differences)
    columns = [f"{'teacher-only, ' if is_demo else ''}points (95 %)", "WER"]
    columns += ["partner near", "partner far", "neither"] if is_demo else []
    rows = []
    for one in differences:
        rates = [_at_hidden_cues(one, "partner_rate").get(reach) for reach in ("near", "far")]
        rates.append(_at_hidden_cues(one, "neither_rate").get("all"))
        cells = [_points(found) for found in (one.get("wer"), *(rates if is_demo else []))]
        rows.append([f"{one['student']} - {one['minus']}", *cells])
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
