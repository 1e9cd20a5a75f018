"""How long recognition takes, part by part: what a decoder costs beside the encoder it stands on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

ENCODER, DECODER = "encoder", "decoder"


@dataclass(slots=True)
class Stopwatch:
    """Seconds by part, added up over batches; an accelerator is waited for at both ends of a part."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: {ENCODER: 0.0, DECODER: 0.0})

    @contextmanager
    def measured(self, part: str) -> Iterator[None]:
        """Add what the block takes to `part`."""
        self._wait()
        started = time.perf_counter()
        yield
        self._wait()
        self.seconds[part] += time.perf_counter() - started

    def figures(self, decoder: str, audio_seconds: float) -> dict[str, Any]:
        """What an evaluation says of its speed.

        encoder_seconds : features, encoder and CTC heads     decoder_seconds : of the decoder named alone
        real_time_factor : both over audio_seconds; reading audio is in neither. Of one decoder, of few
            utterances or on a busy machine it says little: compare what was measured in one run.
        """
        spent = {f"{part}_seconds": round(seconds, 6) for part, seconds in self.seconds.items()}
        return {
            "decoder": decoder,
            **spent,
            "audio_seconds": round(audio_seconds, 3),
            "real_time_factor": sum(self.seconds.values()) / audio_seconds if audio_seconds else 0.0,
            "device": str(self.device),
            "threads": torch.get_num_threads(),
        }

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
