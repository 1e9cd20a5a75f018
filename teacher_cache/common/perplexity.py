"""Perplexity from nats, finite for the worst of models too."""

from __future__ import annotations

import math

MOST_NATS = 700.0  # exp overflows a float64 above 709


def perplexity(mean_nats: float) -> float:
    """exp(mean_nats): among how many equally likely tokens a model is undecided; at most exp(700).

    mean_nats : of a token, minus the mean natural log-probability. A NaN stays one.
    """
    return math.exp(min(mean_nats, MOST_NATS))
