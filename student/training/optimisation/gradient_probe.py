"""What each part of the objective does to the encoder, on one batch that stays the same for the whole run.

Training batches differ in length and luck; on this one nothing but the weights changes between two
measurements. No dropout, SpecAugment or speed is drawn, no gradient of a weight is touched: a run trains to
the same bits with it and without.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from student.config import AugmentationConfig, StudentConfig
from student.data.dataset import SpeechBatch, SpeechDataset, load_batches
from student.data.phase import is_share_due
from student.data.training_data import Split
from student.loss.objective import Objective, objective_weights
from student.model.student_model import Bert2CTC
from student.training.memory import memory_advice
from student.training.optimisation.gradient_shares import figures, gradient_products

PROBE_UTTERANCES = 16
_UNCHANGED = AugmentationConfig(speed_factors=(1.0,), frequency_masks=0, time_masks=0)
ObjectiveOf = Callable[[Split, SpeechBatch, int, int], Objective]  # of a batch, its utterances and the step


@dataclass(frozen=True, slots=True)
class Probed:
    """figures : of `gradient_shares.figures`     seconds : that the measurement took"""

    figures: dict[str, float]
    seconds: float


class GradientProbe:
    """Up to PROBE_UTTERANCES training utterances, chosen by the seed, whose padded audio fits on the device.

    Decoders read of them what they read in the run's first epoch: a rate of the history stays hidden.
    """

    def __init__(
        self, model: Bert2CTC, train: Split, config: StudentConfig, objective_of: ObjectiveOf
    ) -> None:
        self._model, self._config, self._objective_of = model, config, objective_of
        still = replace(train.speech, augmentation=_UNCHANGED, memory_megabytes=0, _kept={}, _kept_bytes=0)
        self._split = Split(still, train.labels)
        self._layers = (*config.conformer.taps, config.conformer.num_layers)
        self._batch: SpeechBatch | None = None

    def is_on(self, step: int) -> bool:
        """True where a branch has begun and the config does not switch the probe off."""
        objective = self._config.objective
        return (
            objective.uses_branch and objective.share_every_steps > 0 and step >= objective.branch_from_step
        )

    def is_due(self, step: int) -> bool:
        """True before the branch's first step, and then as often as the config says."""
        return is_share_due(self._config, step)

    def measure(self, step: int, branch_scale: float) -> Probed:
        """Shares, norms and cosines with the model's present weights; it is left as it was.

        step : steps done     branch_scale : what the branch's weights are multiplied by just now
        """
        started = time.monotonic()
        if self._batch is None:
            self._batch = _probe_batch(self._split.speech, self._config.trainer.micro_batch_seconds)
        batch, was_training = self._batch, self._model.training
        self._model.eval()
        try:
            with memory_advice(batch, self._config, next(self._model.parameters()).device):
                objective = self._objective_of(self._split, batch, len(batch.indices), step)
                weights = objective_weights(self._config)
                products = gradient_products(objective.terms, weights, objective.output.hidden)
        finally:
            self._model.train(was_training)
        values = torch.stack(list(products.values())).tolist()
        found = figures(dict(zip(products, values, strict=True)), self._layers, branch_scale)
        return Probed(found, time.monotonic() - started)


def _probe_batch(speech: SpeechDataset, padded_seconds: float) -> SpeechBatch:
    """The first utterances of a shuffled order that together are a batch of at most so many seconds."""
    seconds = speech.seconds(0)
    chosen: list[int] = []
    for index in np.random.default_rng(speech.seed).permutation(len(speech)).tolist():
        longest = max(float(seconds[one]) for one in [*chosen, index])
        if len(chosen) < PROBE_UTTERANCES and longest * (len(chosen) + 1) <= padded_seconds:
            chosen.append(index)
    (batch,) = load_batches(speech, [[(0, index) for index in chosen]])
    return batch
