"""How long recognition takes, part by part: what each decoder costs beside the encoder it stands on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

ENCODER = "encoder"


@dataclass(slots=True)
class Stopwatch:
    """Seconds by part, the encoder or a row of results, added up over batches.

    An accelerator is waited for at both ends of a part.
    """

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: {ENCODER: 0.0})

    @contextmanager
    def measured(self, part: str) -> Iterator[None]:
        """Add what the block takes to `part`."""
        self._wait()
        started = time.perf_counter()
        yield
        self._wait()
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started

    def figures(self, row: str, audio_seconds: float) -> dict[str, Any]:
        """What an evaluation says of the speed of one row of results.

        encoder_seconds : features, encoder and CTC heads     decoder_seconds : of the row's decoder alone
        real_time_factor : both over audio_seconds; reading audio is in neither. Of one decoder, of few
            utterances or on a busy machine it says little: compare what was measured in one run.
        """
        encoder, decoder = self.seconds[ENCODER], self.seconds.get(row, 0.0)
        return {
            "decoder": row,
            "encoder_seconds": round(encoder, 6),
            "decoder_seconds": round(decoder, 6),
            "audio_seconds": round(audio_seconds, 3),
            "real_time_factor": (encoder + decoder) / audio_seconds if audio_seconds else 0.0,
            "device": str(self.device),
            "threads": torch.get_num_threads(),
        }

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
