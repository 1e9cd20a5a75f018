"""What decoders are called, by commands, files and ladders alike; loads nothing."""

from __future__ import annotations

GREEDY, BEAM, BEAM_NGRAM, BEAM_LM, WORDS = "greedy", "beam", "beam_ngram", "beam_lm", "words"
DECODERS = (GREEDY, BEAM, BEAM_NGRAM, BEAM_LM, WORDS)
FUSED = (BEAM_NGRAM, BEAM_LM, WORDS)  # with a language model, so that weights are tuned
