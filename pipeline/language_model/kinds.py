"""What kinds of language models there are; loads nothing."""

from __future__ import annotations

WORDS, UNITS, NETWORK = "words", "units", "network"  # n-grams of words, of units, and a network over units
KINDS = (WORDS, UNITS, NETWORK)
