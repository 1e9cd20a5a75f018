"""Every setting of the student, one frozen table per part, each checked where it is made."""

from __future__ import annotations

from dataclasses import dataclass, field

TAIL_POLICIES = ("bucket", "renormalise")
BRANCHES = ("attention", "alignment")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureConfig:
    """Log-mel features."""

    sample_rate_hz: int = 16_000
    mel_bins: int = 80
    window_milliseconds: float = 25.0
    hop_milliseconds: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationConfig:
    """SpecAugment (Park et al. 2019, arXiv 1904.08779) and speed perturbation (Ko et al. 2015)."""

    speed_factors: tuple[float, ...] = (1.0,)
    frequency_masks: int = 2
    frequency_mask_bins: int = 27
    time_masks: int = 5
    time_mask_fraction: float = 0.05  # of the utterance, per mask

    def __post_init__(self) -> None:
        if not self.speed_factors or min(self.speed_factors) <= 0:
            raise ValueError(f"speed_factors {self.speed_factors} must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConformerConfig:
    """Gulati et al. 2020, arXiv 2005.08100, with rotary attention and a LayerNorm convolution module."""

    num_layers: int = 12
    model_dim: int = 256
    num_heads: int = 4
    feed_forward_dim: int = 1024
    conv_kernel_frames: int = 31  # odd: output as long as input
    subsampling_channels: int = 64
    dropout: float = 0.1
    taps: tuple[int, ...] = (4, 8)  # 1-based; one third and two thirds of the depth
    self_conditioning: bool = False  # Nozaki and Komatsu 2021, arXiv 2104.02724

    def __post_init__(self) -> None:
        if self.model_dim % (2 * self.num_heads):
            raise ValueError(
                f"model_dim {self.model_dim} must be divisible by twice num_heads {self.num_heads}"
            )
        if self.conv_kernel_frames % 2 == 0:
            raise ValueError(f"conv_kernel_frames {self.conv_kernel_frames} must be odd")
        if list(self.taps) != sorted(set(self.taps)) or not all(
            1 <= tap < self.num_layers for tap in self.taps
        ):
            raise ValueError(f"taps {self.taps} must ascend within 1..{self.num_layers - 1}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """The decoders that training throws away; under branch = "alignment" an output layer is all of one."""

    num_layers: int = 2
    num_heads: int = 4
    feed_forward_dim: int = 1024
    dropout: float = 0.1
    shared: bool = True  # one decoder for every tap, or one per tap
    min_count: int = 10  # a piece outside the transcripts needs so many places in the cache's top k
    logits_megabytes: float = 64.0  # no tensor over (positions, pieces) is larger; more positions wait

    def __post_init__(self) -> None:
        if self.logits_megabytes <= 0:
            raise ValueError(f"logits_megabytes {self.logits_megabytes} must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveConfig:
    """L = c CTC + (1 - c) branch; see `student.loss.objective` for the whole formula.

    ctc_weight c; intermediate_ctc_weight w; distillation_weight a
    branch : who learns the teacher's pieces: "attention" decoders (interAED), or, as the control, a CTC
        head over the pieces, distilled at the frames of its forced alignment (Futami et al. 2022,
        arXiv 2209.02030)
    branch_on_taps : it listens to the taps too, or to the final layer alone
    """

    ctc_weight: float = 0.3
    intermediate_ctc_weight: float = 0.5
    branch: str = "attention"
    branch_on_taps: bool = True
    distillation_weight: float = 0.3
    top_k: int = 16
    temperature: float = 1.0
    tail: str = "bucket"
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        for name in ("ctc_weight", "intermediate_ctc_weight", "distillation_weight", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} must lie in 0..1")
        if self.ctc_weight == 0:
            raise ValueError("ctc_weight 0 leaves nothing to decode with; use a small positive weight")
        if self.ctc_weight == 1 and self.distillation_weight > 0:
            raise ValueError(
                f"distillation_weight {self.distillation_weight} has no decoder to act on: ctc_weight is 1; "
                "set objective.distillation_weight=0 or lower objective.ctc_weight"
            )
        if self.intermediate_ctc_weight == 1:
            raise ValueError("intermediate_ctc_weight 1 leaves the final layer untrained; stay below 1")
        if self.branch not in BRANCHES:
            raise ValueError(f"branch {self.branch!r} is not one of {BRANCHES}")
        if self.branch == "alignment" and self.distillation_weight == 1:
            raise ValueError("distillation_weight 1 leaves the alignment head untrained; stay below 1")
        if self.tail not in TAIL_POLICIES:
            raise ValueError(f"tail {self.tail!r} is not one of {TAIL_POLICIES}")
        if self.top_k < 1 or self.temperature <= 0:
            raise ValueError(f"top_k {self.top_k} and temperature {self.temperature} must be positive")

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

    max_steps: int = 10_000
    batch_seconds: float = 600.0  # audio per optimiser step, over all ranks and accumulation steps
    micro_batch_seconds: float = 600.0  # audio that fits on one device at once
    learning_rate: float = 2e-3
    warmup_steps: int = 1000
    final_learning_rate_fraction: float = 0.02  # cosine decay ends here
    weight_decay: float = 1e-2
    gradient_clip: float = 5.0
    precision: str = "auto"  # bfloat16 where the machine has it; float16 scales the loss, on CUDA alone
    compile: bool = False  # blocks by torch.compile: minutes once, faster steps on a GPU
    device: str = "auto"
    seed: int = 1
    data_workers: int = 0
    audio_memory_megabytes: int = 1024  # decoded audio is kept in memory while it fits
    label_memory_megabytes: int = 4096  # the teacher's labels too; else a memory map below the scratch root
    threads: int = 0  # 0: PyTorch's own choice
    checkpoint_every_steps: int = 500
    evaluate_every_steps: int = 1000
    keep_checkpoints: int = 3
    keep_best_checkpoints: int = 1  # by dev WER; more than one for averaging the best
    max_bad_steps: int = 5  # skipped for NaN, infinity or an exploded loss, in a row
    explosion_ratio: float = 10.0  # a loss so many times the running mean has exploded
    initial_checkpoint: str = ""  # a run or a checkpoint to fine-tune; its weights only
    early_stop_evaluations: int = 0  # so many in a row without a better dev WER end the run; 0: never

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision {self.precision!r} is not one of {PRECISIONS}")
        if self.device not in DEVICES:
            raise ValueError(f"device {self.device!r} is not one of {DEVICES}")
        if self.micro_batch_seconds > self.batch_seconds:
            raise ValueError(
                f"micro_batch_seconds {self.micro_batch_seconds} exceeds batch_seconds {self.batch_seconds}"
            )
        if self.keep_best_checkpoints < 1 or self.early_stop_evaluations < 0:
            raise ValueError(
                f"keep_best_checkpoints {self.keep_best_checkpoints} must be 1 or more, "
                f"early_stop_evaluations {self.early_stop_evaluations} 0 or more"
            )
        if self.explosion_ratio <= 1:
            raise ValueError(f"explosion_ratio {self.explosion_ratio} must exceed 1")
        if self.max_steps < 1 or self.warmup_steps < 0:
            raise ValueError(
                f"max_steps {self.max_steps}, warmup_steps {self.warmup_steps}: must be positive"
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
