"""What a run's result says of its branch: the last measurements that metrics.jsonl holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

LISTENING = ("accuracy_final", "accuracy_deaf_final", "kd_per_token_final", "kd_per_token_deaf_final")
_GRADIENT = ("share_", "cosine_ctc_")


def gradient_summary(entries: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Step, shares and cosines with CTC's gradient of the last measurement on the probe batch, else {}."""
    return {
        name: value
        for name, value in _last(entries, "gradient").items()
        if name == "step" or name.startswith(_GRADIENT)
    }


def listening_summary(entries: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Step, accuracy and KD of the final decoder with its own and another's audio, last on dev, else {}."""
    last = _last(entries, "dev")
    found = {name: last[name] for name in LISTENING if name in last}
    return {"step": last["step"], **found} if found else {}


def _last(entries: Iterable[Mapping[str, Any]], kind: str) -> dict[str, float]:
    """The last entry of a kind, without what was no number; {} without one."""
    found: Mapping[str, Any] = {}
    for entry in entries:
        found = entry if entry["kind"] == kind else found
    return {name: float(value) for name, value in found.items() if name != "kind" and value is not None}
