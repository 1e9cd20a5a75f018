"""What of the training is on at a step: attention is free at first where it is aligned later."""

from __future__ import annotations

from dataclasses import dataclass

from student.config import StudentConfig


@dataclass(frozen=True, slots=True)
class Phase:
    """is_aligned : decoders attend to their windows where the config says so; else freely"""

    is_aligned: bool = True


WHOLE = Phase()


def phase_at(config: StudentConfig, step: int) -> Phase:
    """The phase of a step; step : steps done before it."""
    return Phase(is_aligned=step >= config.decoder.aligned_from_step)
