"""What decides a label, what builds a cache and what trains a teacher: the frozen tables of a config file."""

from __future__ import annotations

from dataclasses import dataclass

MASKING_POLICIES = ("token", "whole_word")
CONTEXT_POLICIES = ("utterance", "chapter")
COMPUTE_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherConfig:
    """Which masked language model labels the transcripts.

    name : the folder `<runs root>/teachers/<name>` of a teacher that this project trains
    model : a local Hugging Face folder or a hub name; with a `[teacher_training]` table it is the
        model that training starts from, and "" trains from scratch
    revision : the hub revision; resolved once to a commit that the teacher's folder records
    """

    name: str = ""
    model: str = ""
    revision: str = ""

    def __post_init__(self) -> None:
        if not self.name and not self.model:
            raise ValueError("[teacher] needs a name (a teacher trained here) or a model (one that exists)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherTrainingConfig:
    """Masked-LM training, from scratch or on from `[teacher] model`.

    text : plain-text files (also .xz, .gz) below the data root, a paragraph a line
    vocabulary : a WordPiece vocab.txt below the data root, or "words" (every word of the text is
        one piece), or "wordpiece" (trained on the text); ignored when training goes on from a model
    """

    text: tuple[str, ...]
    vocabulary: str = "wordpiece"
    vocabulary_size: int = 8000  # for "wordpiece" only
    num_layers: int = 4
    hidden_dim: int = 256
    num_heads: int = 4
    feed_forward_dim: int = 1024
    max_positions: int = 512
    max_words: int = 40  # LibriSpeech utterances hold about 35 words
    mask_fraction: float = 0.15  # Devlin et al. 2019, section 3.1
    max_steps: int = 10_000
    batch_size: int = 64
    learning_rate: float = 5e-4
    warmup_fraction: float = 0.06
    weight_decay: float = 0.01
    dropout: float = 0.1
    held_out_fraction: float = 0.01
    overlap_words: int = 8  # a sentence that shares so many words in a row with a transcript is left out
    save_every_steps: int = 1000
    seed: int = 1

    def __post_init__(self) -> None:
        if not self.text:
            raise ValueError("[teacher_training] text names no file")
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim {self.hidden_dim} must be divisible by num_heads {self.num_heads}")
        if not 0 < self.held_out_fraction < 1:
            raise ValueError(f"held_out_fraction {self.held_out_fraction} must lie between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """All that decides a label beside the teacher and the text; every field is in the fingerprint's recipe.

    masking : "token" hides one piece, "whole_word" all pieces of a whitespace-delimited word
    context : "utterance" or "chapter" (whole neighbouring utterances of the chapter, nearest first)
    context_words : budget of the neighbours on both sides together, in words (0 under "utterance")
    top_k : candidates kept per position     temperatures : normalisers and tails stored; 1 always among them
    dtype : what the encoder computes in; written here, never derived from the machine
    """

    masking: str = "token"
    context: str = "utterance"
    context_words: int = 0
    top_k: int = 64
    temperatures: tuple[float, ...] = (1.0, 2.0)
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.masking not in MASKING_POLICIES:
            raise ValueError(f"masking {self.masking!r} is not one of {MASKING_POLICIES}")
        if self.context not in CONTEXT_POLICIES:
            raise ValueError(f"context {self.context!r} is not one of {CONTEXT_POLICIES}")
        if (self.context == "chapter") != (self.context_words > 0):
            raise ValueError(f"context {self.context!r} does not go with context_words {self.context_words}")
        if self.top_k < 1:
            raise ValueError(f"top_k {self.top_k} must be at least 1")
        if 1.0 not in self.temperatures or min(self.temperatures) <= 0:
            raise ValueError(f"temperatures {self.temperatures} must be positive and hold 1.0")
        if list(self.temperatures) != sorted(set(self.temperatures)):
            raise ValueError(f"temperatures {self.temperatures} must ascend without repeats")
        if self.dtype not in COMPUTE_DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is not one of {COMPUTE_DTYPES}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """How a cache is built; nothing here changes a label, so nothing here is in the fingerprint.

    splits : labelled splits; dev serves monitoring only, test splits only on request
    workers : Dask workers, 0 = one per GPU, or one per core without a GPU
    """

    splits: tuple[str, ...] = ("train", "dev")
    workers: int = 0
    threads_per_worker: int = 1
    rows_per_shard: int = 0  # 0: chosen from the corpus so that every worker gets many
    batch_tokens: int = 4096  # masked copies times their length, per forward pass

    def __post_init__(self) -> None:
        if self.rows_per_shard % 1024 or not 0 <= self.rows_per_shard <= 65_536:
            raise ValueError(f"rows_per_shard {self.rows_per_shard} must be a multiple of 1,024 up to 65,536")
