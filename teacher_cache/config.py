"""What decides a label, what builds a cache and what trains a teacher: the frozen tables of a config file."""

from __future__ import annotations

from dataclasses import dataclass

from teacher_cache.settings import check_settings, required, setting

MASKING_POLICIES = ("token", "whole_word")
CONTEXT_POLICIES = ("utterance", "chapter")
RANKED_PIECES = ("all", "speakable")
PASSAGE_ENDS = ("none", "full_stop")
COMPUTE_DTYPES = ("float32", "bfloat16")
TAIL_POLICIES = ("bucket", "renormalise")  # of what a reader makes of the mass beyond its candidates


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherConfig:
    """Which masked language model labels the transcripts."""

    name: str = setting(
        "", "folder below <runs root>/teachers of a teacher that this project trains", names=True
    )
    model: str = setting(
        "", "a local Hugging Face folder or a hub name; with [teacher_training], what training starts from"
    )
    revision: str = setting("", "of the hub; resolved once to a commit that the teacher's folder records")

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.name and not self.model:
            raise ValueError("needs a name (a teacher trained here) or a model (one that exists)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherTrainingConfig:
    """Masked-LM training, from scratch or on from `[teacher] model`."""

    text: tuple[str, ...] = required(
        "plain-text files (also .xz, .gz) below the data root, a paragraph a line"
    )
    vocabulary: str = setting(
        "wordpiece", "a WordPiece vocab.txt below the data root, or `words` (every word a piece), or "
        "`wordpiece` (trained on the text); ignored when training goes on from a model",
    )  # fmt: skip
    vocabulary_size: int = setting(8000, "for `wordpiece` only", unit="pieces", low=100, high=1_000_000)
    num_layers: int = setting(4, "from scratch", low=1, high=256)
    hidden_dim: int = setting(256, "from scratch; divisible by num_heads", low=1, high=65_536)
    num_heads: int = setting(4, "from scratch", low=1, high=256)
    feed_forward_dim: int = setting(1024, "from scratch", low=1, high=262_144)
    max_positions: int = setting(512, "from scratch: the longest input", unit="pieces", low=8, high=100_000)
    max_words: int = setting(
        40,
        "longer sentences are cut; LibriSpeech utterances hold about 35",
        unit="words",
        low=1,
        high=100_000,
    )
    mask_fraction: float = setting(
        0.15, "hidden and guessed (Devlin et al. 2019, section 3.1)", above=0, below=1
    )
    max_steps: int = setting(10_000, "optimiser steps of the whole training", unit="steps", low=1, high=10**9)
    batch_size: int = setting(64, "of a step", unit="sentences", low=1, high=10**6)
    learning_rate: float = setting(5e-4, "at its peak", above=0, high=10)
    warmup_fraction: float = setting(0.06, "of the steps, up to the peak", low=0, high=1)
    weight_decay: float = setting(0.01, "of AdamW", low=0, high=10)
    dropout: float = setting(0.1, "none is best where every sentence is read once or twice", low=0, below=1)
    held_out_fraction: float = setting(0.01, "of the sentences, for its figures", above=0, below=1)
    overlap_words: int = setting(
        8,
        "a sentence that shares so many words in a row with a transcript is left out",
        unit="words",
        low=1,
        high=100_000,
    )
    save_every_steps: int = setting(
        1000, "what a killed training loses at most", unit="steps", low=1, high=10**9
    )
    seed: int = setting(1, "of weights, order and masks", low=0, high=2**31 - 1)

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.text:
            raise ValueError("[teacher_training] text names no file")
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim {self.hidden_dim} must be divisible by num_heads {self.num_heads}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """All that decides a label beside the teacher and the text; every field is in the recipe."""

    masking: str = setting(
        "token", "hide one piece, or all pieces of a whitespace-delimited word", choices=MASKING_POLICIES
    )
    context: str = setting(
        "utterance", "`chapter` shows whole neighbouring utterances, nearest first", choices=CONTEXT_POLICIES
    )
    context_words: int = setting(
        0,
        "budget of the neighbours on both sides together; 0 under `utterance`",
        unit="words",
        low=0,
        high=100_000,
    )
    ranked_pieces: str = setting(
        "all", "`speakable`: only pieces of a-z and apostrophe have probability, full stops have none; for a "
        "teacher of punctuated text", choices=RANKED_PIECES,
    )  # fmt: skip
    passage_end: str = setting(
        "none", "`full_stop`: the teacher reads one behind every passage", choices=PASSAGE_ENDS
    )
    top_k: int = setting(64, "candidates kept per position", low=1, high=65_536)
    temperatures: tuple[float, ...] = setting(
        (1.0, 2.0), "whose normalisers and tails are stored; ascending, 1 among them", above=0, high=1000
    )
    dtype: str = setting(
        "float32", "what the encoder computes in; never derived from the machine", choices=COMPUTE_DTYPES
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if 1.0 not in self.temperatures:
            raise ValueError(f"temperatures {self.temperatures} must be positive and hold 1.0")
        if (self.context == "chapter") != (self.context_words > 0):
            raise ValueError(f"context {self.context!r} does not go with context_words {self.context_words}")
        if list(self.temperatures) != sorted(set(self.temperatures)):
            raise ValueError(f"temperatures {self.temperatures} must ascend without repeats")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """How a cache is built; nothing here changes a label, so nothing here is in the fingerprint."""

    splits: tuple[str, ...] = setting(
        ("train", "dev"),
        "labelled splits; dev, where there is one, serves monitoring only, test splits only on request",
        names=True,
    )
    workers: int = setting(0, "of Dask; 0: one per GPU, or one per core without a GPU", low=0, high=10_000)
    threads_per_worker: int = setting(1, "of PyTorch in a worker", low=1, high=4096)
    rows_per_shard: int = setting(
        0, "a multiple of 1,024; 0: chosen from the corpus so that every worker gets many", unit="rows",
        low=0, high=65_536,
    )  # fmt: skip
    batch_tokens: int = setting(
        4096, "masked copies times their length, per forward pass", unit="tokens", low=1, high=10**9
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.rows_per_shard % 1024:
            raise ValueError(f"rows_per_shard {self.rows_per_shard} must be a multiple of 1,024 up to 65,536")
