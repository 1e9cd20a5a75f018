"""What a run's metrics and its teacher cache become in the report: curves and plain figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.comparison.run_facts import RunFacts
from pipeline.report.page.figures import Curves, Points, curves

_TERMS = ("loss", "ctc", "ce_", "kd_")  # what a term's name begins with
_PERCENT = 100


def loss_figure(run: RunFacts, name: str) -> str:
    """Every term of the training loss by step, where the log has them, else those of dev."""
    by_term = _by_name(run.metrics, "train") or _by_name(run.metrics, "dev")
    drawn: Curves = {term: points for term, points in by_term.items() if _is_term(term)}
    return curves(drawn, "step", "per utterance", name, is_log_y=True)


def tap_figure(run: RunFacts, name: str) -> str:
    """WER on dev of taps and final layer by step, in per cent."""
    rates = {
        "final layer" if term == "wer" else f"tap {term.removeprefix('wer_tap')}": [
            (step, _PERCENT * rate) for step, rate in points
        ]
        for term, points in _by_name(run.metrics, "dev").items()
        if term == "wer" or term.startswith("wer_tap")
    }
    return curves(rates, "step", "WER on dev, %", name)


def teacher_figure(quality: Mapping[str, Any], name: str) -> str:
    """Mass that the first K candidates keep, and how often the right piece is among them."""
    labels = {"mass_at": "mass kept", "accuracy_at": "right piece among them"}
    drawn = {label: _by_k(quality.get(key, {})) for key, label in labels.items()}
    return curves(drawn, "K, candidates kept", "%", name, is_log_x=True)


def cost_figure(costs: Sequence[Mapping[str, Any]], name: str) -> str:
    """WER over real-time factor, a point for each decoder of each run; "" for fewer than two."""
    drawn = {
        f"{cost['run']}, {cost['decoder']}": [(cost["real_time_factor"], _PERCENT * cost["wer"])]
        for cost in costs
        if cost["real_time_factor"]
    }
    return curves(drawn, "real-time factor", "WER, %", name) if len(drawn) > 1 else ""


def _by_name(entries: Sequence[Mapping[str, Any]], kind: str) -> dict[str, list[tuple[float, float]]]:
    """Figure -> (step, value) by step; what was not finite is left out."""
    found: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        if entry.get("kind") == kind:
            for name, value in entry.items():
                if isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
                    found.setdefault(name, []).append((float(entry["step"]), float(value)))
    return {name: sorted(points) for name, points in found.items()}


def _is_term(name: str) -> bool:
    return name.startswith(_TERMS) and not name.startswith("kd_per_token")


def _by_k(shares: Mapping[str, float]) -> Points:
    return sorted((float(k), _PERCENT * float(share)) for k, share in shares.items())
