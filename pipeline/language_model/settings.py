"""The table [language_model]: what an external language model is made of, and how."""

from __future__ import annotations

from dataclasses import dataclass

from teacher_cache.settings import check_settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelConfig:
    """External language models that a decoder may be given: n-grams and a small causal network."""

    text: tuple[str, ...] = setting(
        (), "plain-text files (also .xz, .gz) below the data root, a paragraph a line; none: the text of "
        "[teacher_training]",
    )  # fmt: skip
    transcripts: bool = setting(True, "the training transcripts beside the text; never those of other splits")
    max_sentences: int = setting(
        2_000_000, "drawn evenly from the text, all where it holds fewer", unit="sentences", low=1, high=10**9
    )
    max_words: int = setting(
        40, "longer sentences are cut, as the teacher's are", unit="words", low=1, high=100_000
    )
    overlap_words: int = setting(
        8, "a sentence that shares so many words in a row with a transcript of another split is left out",
        unit="words", low=1, high=100_000,
    )  # fmt: skip
    held_out_fraction: float = setting(
        0.01, "of the text's sentences, that perplexities are taken on", above=0, below=1
    )
    word_order: int = setting(4, "words of the longest n-gram", low=2, high=10)
    unit_order: int = setting(6, "units of the longest n-gram", low=2, high=10)
    num_layers: int = setting(4, "of the network", low=1, high=256)
    hidden_dim: int = setting(256, "of the network; divisible by num_heads", low=1, high=65_536)
    num_heads: int = setting(4, "of the network", low=1, high=256)
    max_positions: int = setting(
        512, "units that have positions of their own; all later ones share the last", unit="units", low=8,
        high=100_000,
    )  # fmt: skip
    max_steps: int = setting(10_000, "optimiser steps of the network", unit="steps", low=1, high=10**9)
    batch_size: int = setting(64, "of a step", unit="sentences", low=1, high=10**6)
    learning_rate: float = setting(1e-3, "at its peak", above=0, high=10)
    warmup_fraction: float = setting(0.06, "of the steps, up to the peak", low=0, high=1)
    weight_decay: float = setting(0.01, "of AdamW", low=0, high=10)
    dropout: float = setting(0.0, "none is best where every sentence is read once or twice", low=0, below=1)
    save_every_steps: int = setting(
        1000, "what a killed training loses at most", unit="steps", low=1, high=10**9
    )
    seed: int = setting(1, "of the draw, the weights and the order", low=0, high=2**31 - 1)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim {self.hidden_dim} must be divisible by num_heads {self.num_heads}")
