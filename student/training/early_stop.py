"""What the dev split's word error rates so far decide: when to stop, and which checkpoints to keep."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence


def has_stopped_improving(wers: Sequence[float], patience: int) -> bool:
    """True where the last `patience` of the rates, in their order, brought none below the earlier best.

    patience : 0 never stops
    """
    return len(wers) > patience > 0 and min(wers[:-patience]) <= min(wers[-patience:])


def is_among_best(step: int, wers: Mapping[int, float], count: int) -> bool:
    """True where the step's rate is among the `count` lowest; of equals the earlier counts."""
    return step in heapq.nsmallest(count, wers, key=wers.__getitem__)
