"""Search over words with an n-gram of words, by ctc-beam-decoder (pyctcdecode's search, KenLM), on the CPU.

By trial: docs/decoding.md compares it with flashlight-text, which the tests hold it against.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from student.data.units import Units
from student.decoding.interface import Hypothesis
from student.decoding.weights import FusionWeights
from student.errors import StudentError

_UNKNOWN_LOG10 = -10.0  # the library's own for a word that the n-gram does not know, beside <unk>'s


@dataclass(frozen=True, slots=True, kw_only=True)
class WordSearchSettings:
    """How wide the search is; in brackets the library's name.

    beam : hypotheses kept at each frame (beam_width)     hypotheses : handed out per utterance, at most
    unit_log_prob : a unit less likely than this at a frame is left out, but for the likeliest
        (token_min_logp)
    beam_log_prob : hypotheses this far below the best are dropped (beam_prune_logp)
    """

    beam: int = 100
    hypotheses: int = 10
    unit_log_prob: float = -5.0
    beam_log_prob: float = -10.0

    def __post_init__(self) -> None:
        if min(self.beam, self.hypotheses) < 1 or max(self.unit_log_prob, self.beam_log_prob) >= 0:
            raise StudentError(
                f"beam {self.beam}, hypotheses {self.hypotheses}, unit_log_prob {self.unit_log_prob}, "
                f"beam_log_prob {self.beam_log_prob}: 1 and up, and below 0"
            )


@dataclass(frozen=True, kw_only=True)
class WordsDecoder:
    """CTC beam search whose every word is scored by an n-gram once it is whole.

    arpa : the n-gram, as KenLM reads it     words : of it, without <s>, </s> and <unk>
    A hypothesis scores the log-probability of its alignments + weights.language x the n-gram's (its end
    included) + weights.insertion per word. A word outside `words` can be read, at ten orders of magnitude
    beside the n-gram's <unk>. The library takes no label prior, and reads the n-gram again for each weights.
    Raises StudentError for a file that KenLM refuses, and where the units can spell none of the words.
    """

    units: Units
    arpa: Path
    words: Collection[str]
    weights: FusionWeights
    settings: WordSearchSettings = field(default_factory=WordSearchSettings)
    name: str = "words"

    def __post_init__(self) -> None:
        if self.weights.prior:
            raise StudentError("the decoder `words` takes no label prior; tune it with `bert2ctc tune RUN`")
        if not any(self.units.decode(self.units.encode(word)) == word for word in self.words):
            example = f", such as {min(self.words)!r}," if self.words else ""
            raise StudentError(
                f"{self.arpa}: none of its {len(self.words)} words{example} can be spelled with the "
                "student's units; give a model of text that is normalised as the transcripts are"
            )
        assert self._library is not None  # a broken file is told now, not at the first utterance

    @cached_property
    def _library(self) -> Any:
        from ctc_beam_decoder import build_ctcdecoder

        try:
            with _quiet_library():
                return build_ctcdecoder(
                    self.units.pieces,
                    str(self.arpa),
                    unigrams=sorted(self.words),
                    alpha=self.weights.language,
                    beta=self.weights.insertion,
                    unk_score_offset=_UNKNOWN_LOG10,
                )
        except (ValueError, OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise StudentError(
                f"{self.arpa}: KenLM cannot read it ({reason}); give a whole ARPA file of words"
            ) from None

    @torch.inference_mode()
    def decode(self, logits: Tensor, frame_lengths: Tensor) -> list[list[Hypothesis]]:
        """As `Decoder` has it, without units; one utterance after the other."""
        log_probs = logits.float().log_softmax(-1).cpu()
        return [
            self._readings(row[:length]) if length else [Hypothesis((), "", 0.0, 0.0)]
            for row, length in zip(log_probs, frame_lengths.tolist(), strict=True)
        ]

    def _readings(self, log_probs: Tensor) -> list[Hypothesis]:
        beams = self._library.decode_beams(
            log_probs.numpy(),
            beam_width=self.settings.beam,
            token_min_logp=self.settings.unit_log_prob,
            beam_prune_logp=self.settings.beam_log_prob,
            prune_history=True,
        )
        readings = []
        for text, _, _, acoustic, score in beams[: self.settings.hypotheses]:
            # of a silent utterance the library scores one word, the empty one
            fused = score - acoustic - self.weights.insertion * max(len(text.split()), 1)
            language = fused / self.weights.language if self.weights.language else 0.0
            readings.append(Hypothesis((), text, score, acoustic, language))
        return readings or [Hypothesis((), "", -math.inf, -math.inf)]


@contextmanager
def _quiet_library() -> Iterator[None]:
    """KenLM's progress, which goes to the process's standard error, is not shown."""
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as unread:
            os.dup2(unread.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
