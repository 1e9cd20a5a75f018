"""One optimiser step, from its batches to the weights' update."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from student.config import StudentConfig
from student.data.dataset import SpeechBatch
from student.data.loaded_steps import LoadedStep
from student.data.phase import phase_at
from student.data.training_data import Split
from student.errors import StudentError
from student.loss.objective import Objective, combine, compute_objective, objective_weights
from student.model.dropout import dropout_seed
from student.model.student_model import Bert2CTC
from student.training.checkpoint import Checkpoint
from student.training.device import Precision
from student.training.distributed import Ranks
from student.training.memory import memory_advice
from student.training.optimisation.branch_balance import BranchBalance
from student.training.optimisation.clipping import Clipping
from student.training.optimisation.gradient_probe import GradientProbe
from student.training.optimisation.optimiser import build_optimiser, learning_rate
from student.training.optimisation.spike_detection import SpikeDetector
from student.training.optimisation.weight_average import WeightAverage

_SHOWN_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What became of a step.

    figures : loss and terms, gradient norm and rate, by name, over all ranks
    fault : why the weights were left as they were, "" where they were updated
    was_clipped : the update was of a gradient that clipping had scaled down
    overflowed_scale : of the loss, where its gradients alone overflowed: no fault, the scale falls; else 0
    audio_seconds : of the global batch     data_wait_seconds : of this rank
    """

    figures: dict[str, float]
    fault: str
    overflowed_scale: float
    was_clipped: bool
    audio_seconds: float
    data_wait_seconds: float


@dataclass(slots=True)
class _Sums:
    """What the micro-batches of a step add up to, on this rank."""

    terms: dict[str, Tensor] = field(default_factory=dict)
    samples: float = 0.0
    waited: float = 0.0

    def add(self, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, 0) + value.detach()


class Optimisation:
    """Model, optimiser, and all else that a step changes: scale, spikes, clipping, balance, average."""

    def __init__(
        self, model: Bert2CTC, train: Split, config: StudentConfig, precision: Precision, ranks: Ranks
    ) -> None:
        self.model, self.train, self.config, self.ranks = model, train, config, ranks
        self.precision, self.device = precision, model.ctc_head.weight.device
        self.optimiser = build_optimiser(model, config.trainer)
        is_scaled = precision.dtype == torch.float16  # a scaler that is off passes everything on
        self.scaler = GradScaler(self.device.type, enabled=is_scaled)
        self.spikes = SpikeDetector(config.trainer.explosion_ratio)
        self.clipping = Clipping(config.trainer)
        self.has_word_masks = False  # until dev's CER is low enough
        self.average = WeightAverage(model, config.trainer.average_decay)
        self.balance = BranchBalance(config)
        self.probe = GradientProbe(model, train, config, self._objective_of)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint's weights and states. Raises StudentError where they do not fit."""
        try:
            self.model.load_state_dict(dict(checkpoint.model))
            self.optimiser.load_state_dict(dict(checkpoint.optimiser))
            for parameter, state in self.optimiser.state.items():
                for name, value in state.items():
                    if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                        raise ValueError(f"{name} of shape {tuple(value.shape)} for {tuple(parameter.shape)}")
            if checkpoint.loss_scale:
                self.scaler.load_state_dict(dict(checkpoint.loss_scale))
            self.spikes.restore(checkpoint.spike_detector)
            self.balance.restore(checkpoint.branch_balance)
            self.clipping.restore(checkpoint.clipping)
            self.average.restore(checkpoint.average, checkpoint.averaged_steps)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:_SHOWN_CHARACTERS]
            raise StudentError(
                f"the checkpoint of step {checkpoint.step} does not fit this model and optimiser ({reason}); "
                "delete it to go on from an earlier one"
            ) from None

    def take(self, loaded: LoadedStep, number: int) -> StepOutcome:
        """One step over all ranks; the weights stay where its loss or gradient is no number, or exploded.

        number : steps done before it     Raises StudentError where a batch does not fit into memory.
        """
        trainer = self.config.trainer
        torch.manual_seed(dropout_seed(trainer.seed, number, self.ranks.rank))
        self.optimiser.zero_grad(set_to_none=True)
        phase, is_measured = phase_at(self.config, number), self.balance.is_due(number)
        if self.config.objective.uses_branch and number == self.config.objective.branch_from_step:
            self.spikes.begin_anew()  # loss and gradient are others from here on
            self.clipping.begin_anew()
        self.model.decoders.requires_grad_(phase.has_branch)  # alone or among ranks, none decays before
        weights = objective_weights(self.config, has_branch=phase.has_branch)
        sums = self._accumulate(loaded, number, weights, is_measured)
        self.ranks.sum_gradients(self.model)
        self.scaler.unscale_(self.optimiser)
        limit, norm = self.clipping.limit, float(self.clipping.clip(self.model.parameters()))
        figures, audio_seconds = self._over_all_ranks(sums, list(weights))
        figures |= {"gradient_norm": norm, "learning_rate": learning_rate(number + 1, trainer)}
        if self.balance.is_on and phase.has_branch:
            figures["branch_scale"] = self.balance.scale
        if is_measured:
            self.balance.settle(self.ranks)
        loss_per_second = figures["loss"] * loaded.step.num_utterances / audio_seconds
        fault = self.spikes.fault(figures["loss"], loss_per_second, figures["gradient_norm"])
        is_finite = isfinite(figures["loss"]), isfinite(figures["gradient_norm"])
        scale = self.scaler.get_scale()
        overflowed_scale = scale if is_finite == (True, False) and scale > 1 else 0.0
        if not fault:
            for group in self.optimiser.param_groups:
                group["lr"] = figures["learning_rate"]
            self.scaler.step(self.optimiser)
            self.spikes.learn(loss_per_second)
            self.clipping.learn(norm)
            self.average.learn()
        self.scaler.update()
        return StepOutcome(
            figures, fault, overflowed_scale, not fault and norm > limit, audio_seconds, sums.waited
        )

    def objective(self, speech: SpeechBatch, num_utterances: int, number: int) -> Objective:
        """The objective of a batch of training speech.

        num_utterances : of the global batch     number : steps done before it
        """
        return self._objective_of(self.train, speech, num_utterances, number)

    def _objective_of(self, split: Split, speech: SpeechBatch, num_utterances: int, number: int) -> Objective:
        phase = phase_at(self.config, number, self.has_word_masks)
        batch = split.training_batch(speech, self.model.features, self.device, phase)
        dtype = self.precision.dtype
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            return compute_objective(
                self.model, batch, self.config, num_utterances, self.balance.scale, phase.has_branch
            )

    def _accumulate(
        self, loaded: LoadedStep, number: int, weights: dict[str, float], is_measured: bool
    ) -> _Sums:
        """Gradients of this rank's micro-batches, one after the other."""
        sums, asked = _Sums(), time.monotonic()
        for speech in loaded.batches:
            sums.waited += time.monotonic() - asked
            sums.samples += float(speech.sample_lengths.sum())
            with memory_advice(speech, self.config, self.device):
                objective = self.objective(speech, loaded.step.num_utterances, number)
                if is_measured:
                    self.balance.measure(objective)
                self.scaler.scale(objective.loss).backward()  # type: ignore[no-untyped-call]
            # as weighed by the config, whatever the branch is scaled to: comparable from step to step
            loss = combine(objective.terms, weights)
            sums.add({"loss": loss, **objective.terms, "unaligned": objective.unaligned})
            asked = time.monotonic()
        return sums

    def _over_all_ranks(self, sums: _Sums, terms: list[str]) -> tuple[dict[str, float], float]:
        """Figures of the global batch by name, and the seconds of audio in it."""
        mine = {name: float(value) for name, value in sums.terms.items()} | {"samples": sums.samples}
        figures = self.ranks.sum_figures(mine, ["loss", *terms, "unaligned", "samples"])
        audio_seconds = figures.pop("samples") / self.config.features.sample_rate_hz
        if self.config.decoder.attention == "free":
            del figures["unaligned"]
        return figures, audio_seconds
