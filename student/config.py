"""Every setting of the student, one frozen table per part, each checked where it is made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from student.encoder_config import (
    ENCODER_FRAMES,
    SUBSAMPLINGS,
    AugmentationConfig,
    ConformerConfig,
    FeatureConfig,
)
from teacher_cache.config import TAIL_POLICIES
from teacher_cache.settings import check_settings, setting

__all__ = [
    "ATTENTIONS",
    "BRANCHES",
    "DEVICES",
    "HISTORIES",
    "PRECISIONS",
    "SUBSAMPLINGS",
    "UNIT_MODEL_TYPES",
    "WINDOW_UNITS",
    "AugmentationConfig",
    "ConformerConfig",
    "DecoderConfig",
    "FeatureConfig",
    "ObjectiveConfig",
    "StudentConfig",
    "TrainerConfig",
    "weight_shapes",
]

UNIT_MODEL_TYPES = ("unigram", "bpe", "char")  # of SentencePiece; its "word" loses what it does not know
BRANCHES = ("attention", "alignment")
HISTORIES = ("full", "none")
ATTENTIONS = ("free", "aligned")
WINDOW_UNITS = ("word", "piece")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """The decoders that training throws away; under branch = "alignment" an output layer is all of one."""

    num_layers: int = setting(2, "blocks of a decoder", low=1, high=64)
    num_heads: int = setting(4, "of its attention; must divide conformer.model_dim", low=1, high=256)
    feed_forward_dim: int = setting(1024, "inner width of its feed-forward part", low=1, high=65_536)
    dropout: float = setting(0.1, "of what each part adds to the residual", low=0, below=1)
    shared: bool = setting(True, "one decoder for every tap, or one per tap")
    separate: bool = setting(
        False, "hard labels and the teacher have a decoder each, so that neither explains the other away"
    )
    self_attention: bool = setting(True, "without it a token knows its own window and its position alone")
    history: str | float = setting(
        "full", "earlier pieces that a decoder reads: all, none, or the rate hidden from it while training",
        choices=HISTORIES, low=0, high=1,
    )  # fmt: skip
    attention: str = setting(
        "free", "to every frame, or to the frames of the token's own word or piece (our variant)",
        choices=ATTENTIONS,
    )  # fmt: skip
    aligned_from_step: int = setting(0, "attention is free before it", unit="steps", low=0, high=10**9)
    window_unit: str = setting("word", "whose frames a token attends to when aligned", choices=WINDOW_UNITS)
    window_frames: int = setting(
        3, "before and behind the aligned frames", unit=ENCODER_FRAMES, low=0, high=10_000
    )
    window_from_previous: bool = setting(
        False, "a window begins behind the previous word or piece: for units that are nearly words"
    )
    min_count: int = setting(
        10,
        "a piece outside the transcripts becomes an output when ranked so often in the cache",
        low=0,
        high=10**9,
    )
    logits_megabytes: float = setting(
        64.0,
        "no tensor over (positions, pieces) is larger; more positions wait",
        unit="MiB",
        above=0,
        high=1e6,
    )

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def hidden_history(self) -> float:
        """The rate at which a training decoder's inputs are hidden, 0..1."""
        return {"full": 0.0, "none": 1.0}[self.history] if isinstance(self.history, str) else self.history


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveConfig:
    """L = c CTC + (1 - c) branch; see `student.loss.objective` for the whole formula."""

    ctc_weight: float = setting(0.3, "c; at 1 there is no branch, and no cache is read", above=0, high=1)
    intermediate_ctc_weight: float = setting(
        0.5, "w, of the taps in L_ctc (InterCTC, Lee and Watanabe 2021)", low=0, high=1
    )
    branch: str = setting(
        "attention", "who learns the teacher's pieces: attention decoders (interAED), or as the control a "
        "CTC head distilled at the frames of its forced alignment (Futami et al. 2022, arXiv 2209.02030)",
        choices=BRANCHES,
    )  # fmt: skip
    branch_from_step: int = setting(
        0,
        "CTC trains alone before it, to the very bits of a run without a branch",
        unit="steps",
        low=0,
        high=10**9,
    )
    branch_on_taps: bool = setting(True, "the branch trains the taps too, or the final layer alone")
    branch_share: float = setting(
        0.0, "of the gradient that reaches taps and final layer, what the branch is scaled to; 0: as it "
        "comes with ctc_weight",
        low=0, below=1,
    )  # fmt: skip
    share_every_steps: int = setting(
        200, "how often gradients are measured on a fixed probe batch and logged, and the branch is scaled "
        "anew by those of a whole step; 0: never",
        unit="steps", low=0, high=10**9,
    )  # fmt: skip
    distillation_weight: float = setting(
        0.3, "a, of the teacher's distributions against hard labels in the branch", low=0, high=1
    )
    top_k: int = setting(
        16, "candidates of the teacher that are read, at most the cache's K", low=1, high=65_536
    )
    temperature: float = setting(1.0, "of teacher and decoder in the distillation", above=0, high=1000)
    tail: str = setting(
        "bucket", "mass beyond top_k as one outcome, or spread over the candidates", choices=TAIL_POLICIES
    )
    label_smoothing: float = setting(0.1, "of the hard labels", low=0, below=1)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.intermediate_ctc_weight == 1:
            raise ValueError("intermediate_ctc_weight 1 leaves the final layer untrained; stay below 1")
        if self.branch_share and not self.share_every_steps:
            raise ValueError(f"branch_share {self.branch_share} needs share_every_steps above 0")
        if self.ctc_weight == 1 and self.distillation_weight > 0:
            raise ValueError(
                f"distillation_weight {self.distillation_weight} has no decoder to act on: ctc_weight is 1; "
                "set objective.distillation_weight=0 or lower objective.ctc_weight"
            )
        if self.branch == "alignment" and self.distillation_weight == 1:
            raise ValueError("distillation_weight 1 leaves the alignment head untrained; stay below 1")

    @property
    def uses_branch(self) -> bool:
        """True where any decoder is trained."""
        return self.ctc_weight < 1

    @property
    def uses_teacher(self) -> bool:
        """True where the cached distributions are read."""
        return self.uses_branch and self.distillation_weight > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerConfig:
    """Optimisation, checkpoints and the machine."""

    max_steps: int = setting(10_000, "optimiser steps of the whole run", unit="steps", low=1, high=10**9)
    batch_seconds: float = setting(
        600.0, "audio of an optimiser step, over all ranks and accumulation", unit="s", above=0, high=1e7
    )
    micro_batch_seconds: float = setting(
        600.0, "padded audio that fits on one device at once", unit="s", above=0, high=1e7
    )
    learning_rate: float = setting(2e-3, "at its peak", low=0, high=10)
    warmup_steps: int = setting(
        1000, "a line up to the peak; a cosine down follows", unit="steps", low=0, high=10**9
    )
    final_learning_rate_fraction: float = setting(0.02, "of the peak, where the cosine ends", low=0, high=1)
    weight_decay: float = setting(1e-2, "of AdamW; biases and norms do not decay", low=0, high=10)
    gradient_clip: float = setting(
        5.0, "largest norm of a step's gradient, whatever is usual; 0: any", low=0, high=1e9
    )
    gradient_clip_ratio: float = setting(
        0.0, "largest norm as a multiple of the running mean of earlier steps, so that clipping is the "
        "exception; 0: any",
        low=0, high=1e9,
    )  # fmt: skip
    average_decay: float = setting(
        0.0, "of an exponential moving average of the weights, such as 0.999, which dev, final.pt and "
        "exports use in place of the last ones; 0: none",
        low=0, below=1,
    )  # fmt: skip
    precision: str = setting(
        "auto", "bfloat16 where the machine is faster in it, else float32; float16 scales the loss, on CUDA",
        choices=PRECISIONS,
    )  # fmt: skip
    compile: bool = setting(False, "blocks by torch.compile, on CUDA: minutes once, then faster steps")
    device: str = setting("auto", "CUDA, then MPS, then the CPU", choices=DEVICES)
    seed: int = setting(1, "of weights, order, augmentation and dropout", low=0, high=2**63 - 1)
    data_workers: int = setting(0, "processes that read audio; 0: the trainer itself", low=0, high=1024)
    audio_memory_megabytes: int = setting(
        1024, "decoded audio is kept in memory while it fits", unit="MiB", low=0, high=10**9
    )
    label_memory_megabytes: int = setting(
        4096,
        "the teacher's labels too; else a memory map below the scratch root",
        unit="MiB",
        low=0,
        high=10**9,
    )
    threads: int = setting(0, "of PyTorch; 0: its own choice", low=0, high=4096)
    checkpoint_every_steps: int = setting(
        500, "what a killed run loses at most", unit="steps", low=1, high=10**9
    )
    evaluate_every_steps: int = setting(1000, "the dev split is measured", unit="steps", low=1, high=10**9)
    keep_checkpoints: int = setting(3, "the last so many stay", low=1, high=10**9)
    keep_best_checkpoints: int = setting(
        1, "by dev WER; more than one for averaging the best", low=1, high=10**9
    )
    max_bad_steps: int = setting(
        5, "skipped for NaN, infinity or an exploded loss, in a row", low=1, high=10**9
    )
    explosion_ratio: float = setting(
        10.0, "a loss so many times the running mean has exploded", above=1, high=1e9
    )
    initial_checkpoint: str = setting("", "a run or a checkpoint whose weights, and no more, it begins with")
    early_stop_evaluations: int = setting(
        0, "so many in a row without a better dev WER end the run; 0: never", low=0, high=10**9
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.micro_batch_seconds > self.batch_seconds:
            raise ValueError(
                f"micro_batch_seconds {self.micro_batch_seconds} exceeds batch_seconds {self.batch_seconds}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentConfig:
    """The whole student, as a checkpoint stores it."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    conformer: ConformerConfig = field(default_factory=ConformerConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        objective, taps = self.objective, self.conformer.taps
        wants_taps = {
            "objective.intermediate_ctc_weight": objective.intermediate_ctc_weight > 0,
            "objective.branch_on_taps": objective.uses_branch and objective.branch_on_taps,
            "conformer.self_conditioning": self.conformer.self_conditioning,
        }
        for key, is_wanted in wants_taps.items():
            if is_wanted and not taps:
                raise ValueError(f"{key} needs conformer.taps, which names none; name some or switch it off")
        if self.features.mel_bins < 2 * self.conformer.subsampling - 1:
            raise ValueError(
                f"features.mel_bins {self.features.mel_bins} leaves nothing under conformer.subsampling "
                f"{self.conformer.subsampling}; the least is {2 * self.conformer.subsampling - 1}"
            )
        begins, ends = objective.branch_from_step, self.trainer.max_steps
        if objective.uses_branch and begins >= ends:
            raise ValueError(
                f"objective.branch_from_step {begins} is not below trainer.max_steps {ends}: the branch "
                "would never begin; lower it, or set objective.ctc_weight=1"
            )
        if objective.branch == "alignment" and self.decoder != replace(
            self.decoder, separate=False, history="full", attention="free"
        ):
            raise ValueError(
                "decoder.separate, decoder.history and decoder.attention are of attention decoders; "
                'objective.branch = "alignment" has none'
            )
        if objective.uses_branch and self.conformer.model_dim % self.decoder.num_heads:
            raise ValueError(
                f"conformer.model_dim {self.conformer.model_dim} must be divisible by decoder.num_heads "
                f"{self.decoder.num_heads}"
            )


_SHAPELESS = {"conformer": {"dropout", "taps"}, "features": set[str]()}


def weight_shapes(config: StudentConfig) -> dict[str, dict[str, Any]]:
    """The settings that shape encoder and CTC head, by table: what fine-tuning cannot change."""
    tables = asdict(config)
    return {
        name: {key: value for key, value in tables[name].items() if key not in shapeless}
        for name, shapeless in _SHAPELESS.items()
    }
