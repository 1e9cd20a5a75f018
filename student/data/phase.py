"""What of the training is on at a step, and what begins later: the branch, aligned attention, masks."""

from __future__ import annotations

from dataclasses import dataclass

from student.config import StudentConfig


@dataclass(frozen=True, slots=True)
class Phase:
    """has_branch : decoders are trained where the config has any; else CTC trains alone

    is_aligned : they attend to their windows where the config says so; else freely
    has_masks : SpecAugment hides anything where the config says so
    has_word_masks : its time masks are as long as words
    """

    has_branch: bool = True
    is_aligned: bool = True
    has_masks: bool = True
    has_word_masks: bool = False


WHOLE = Phase()


def phase_at(config: StudentConfig, step: int, has_word_masks: bool = False) -> Phase:
    """The phase of a step; step : steps done before it     has_word_masks : of the result"""
    return Phase(
        has_branch=step >= config.objective.branch_from_step,
        is_aligned=step >= config.decoder.aligned_from_step,
        has_masks=step >= config.augmentation.masks_from_step,
        has_word_masks=has_word_masks,
    )


def whole_from_step(config: StudentConfig) -> int:
    """The first step in which everything is on."""
    return max(config.objective.branch_from_step, config.decoder.aligned_from_step)


def is_share_due(config: StudentConfig, step: int) -> bool:
    """True in the branch's first step, and then as often as the config has its gradient measured."""
    every, since = config.objective.share_every_steps, step - config.objective.branch_from_step
    return config.objective.uses_branch and every > 0 and since >= 0 and since % every == 0
