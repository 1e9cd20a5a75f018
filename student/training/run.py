"""A run in progress: its steps, its measurements on dev, and what it saves of itself."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from student.data.dataset import sampled_waveforms
from student.data.loaded_steps import LoadedStep, loaded_steps
from student.data.phase import whole_from_step
from student.data.sampler import BatchSampler
from student.data.training_data import TrainingData, TrainingJob
from student.errors import StudentError
from student.model.size import require_room
from student.model.student_model import Bert2CTC, inference_state
from student.signals import StopRequest, TrainingInterrupted
from student.training.checkpoint import Checkpoint, save_checkpoint
from student.training.compilation import compile_or_say_why_not
from student.training.device import choose_device, choose_precision, describe_device
from student.training.distributed import ALONE, Ranks
from student.training.fine_tuning import begin_from
from student.training.log import RunLog
from student.training.measurements import Measurements
from student.training.memory import probe_memory
from student.training.optimisation.step import Optimisation
from student.training.report import closing_lines, introduction, progress_note
from student.training.run_cache import require_same_cache
from student.training.run_folder import (
    FINAL_NAME,
    TrainingResult,
    best_step,
    metrics,
    prune_checkpoints,
    step_path,
    write_result,
)
from student.training.summary import gradient_summary, listening_summary
from teacher_cache.common.progress import Advance, progress
from teacher_cache.common.versions import installed_version

TOTALS = ("skipped_steps", "clipped_steps", "seconds", "audio_seconds", "data_wait_seconds", "probe_seconds")
_DISTRIBUTIONS = ("bert2ctc", "torch", "torchaudio", "sentencepiece", "soundfile", "numpy", "zarr")


class Run:
    """A run in progress: model, optimiser and position, all of which a checkpoint holds."""

    def __init__(
        self,
        job: TrainingJob,
        data: TrainingData,
        log: RunLog,
        checkpoint: Checkpoint | None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.job, self.data, self.log, self.config, self.ranks = job, data, log, job.config, ranks
        trainer = job.config.trainer
        if trainer.threads:
            torch.set_num_threads(trainer.threads)
        self.device = choose_device(trainer.device) if ranks.world == 1 else ranks.device
        self.precision = choose_precision(trainer.precision, self.device, ranks)
        self.sampler = BatchSampler(
            seconds_of=data.train.speech.seconds,
            batch_seconds=trainer.batch_seconds,
            micro_batch_seconds=trainer.micro_batch_seconds,
            seed=trainer.seed,
        )
        self.step = self.epoch = self.step_in_epoch = self.bad_steps_in_row = 0
        self.totals = dict.fromkeys(TOTALS, 0.0)
        self.saved_step = -1
        torch.manual_seed(trainer.seed)
        num_pieces = data.vocabulary.num_outputs if data.vocabulary else None
        require_room(job.config, data.units.size, num_pieces, self.device)
        self.model = Bert2CTC(job.config, data.units.size, num_pieces)
        if checkpoint is None and trainer.initial_checkpoint:
            begin_from(Path(trainer.initial_checkpoint), self.model, job.config, data, log.say)
        elif checkpoint is None:
            self.model.features.to(self.device).fit(sampled_waveforms(data.train.speech, trainer.seed))
        self.model.to(self.device)
        ranks.share_weights(self.model)
        self.optimisation = Optimisation(self.model, data.train, job.config, self.precision, ranks)
        self.measurements = Measurements(job, data, log, self.optimisation, self.totals, ranks)
        if checkpoint is not None:
            self._restore(checkpoint)
        padding, speech = self.sampler.padding_fraction(), data.train.speech
        self.log.say(introduction(self.device, self.precision, self.model, speech, padding))
        if trainer.compile:
            self.log.say(compile_or_say_why_not(self.model, self.device))

    def train(self, stop: StopRequest) -> None:
        """Steps up to `max_steps`; a stop request ends it at the next step boundary with a checkpoint."""
        trainer = self.config.trainer
        with closing(self.begin()) as steps, self._progress() as advance:
            self.measurements.take_if_due(self.step, self.save)
            while self.step < trainer.max_steps and not self.measurements.stops_early():
                stop.signal_number = self.ranks.largest(stop.signal_number)
                if stop:
                    self._interrupt(stop)
                figures = self.train_step(steps)
                self.log.figures(self.step, "train", figures)
                if self.step % trainer.checkpoint_every_steps == 0:
                    self.save()  # before a long measurement: a queue that asks to stop does not wait for ever
                self.measurements.take_if_due(self.step, self.save)
                advance(1, note=progress_note(figures))

    def begin(self) -> Generator[LoadedStep]:
        """The steps from the run's position on, once the largest batches have fitted into memory."""
        speech = self.data.train.speech
        if self.device.type == "cuda":  # a CPU pages to disk before it refuses
            number = max(self.step, whole_from_step(self.config))
            objective_of = partial(self.optimisation.objective, number=number)
            probe_memory(self.model, self.sampler, self.epoch, speech, self.config, objective_of)
        self.model.train()
        return loaded_steps(
            self.sampler,
            speech,
            (self.epoch, self.step_in_epoch),
            self.ranks.rank,
            self.ranks.world,
            self.config.trainer.data_workers,
        )

    def save(self) -> None:
        """Write the checkpoint of this step and prune older ones; the first rank does."""
        if not self.ranks.is_first:
            return
        if self.saved_step != self.step:
            path = step_path(self.job.run_dir, self.step)
            moments = self.optimisation.optimiser.state_dict()
            save_checkpoint(path, self._checkpoint(self.model.state_dict(), moments))
            self.saved_step = self.step
        trainer = self.config.trainer
        prune_checkpoints(self.job.run_dir, trainer.keep_checkpoints, trainer.keep_best_checkpoints)

    def finish(self) -> TrainingResult:
        """Measure what has not been measured, write final.pt and result.json; for the first rank."""
        self.measurements.take_last(self.step, self.save)
        self.save()
        with self.optimisation.average.applied():
            state = inference_state(self.model.state_dict())
            final = replace(self._checkpoint(state, {}), average={}, averaged_steps=0)
            save_checkpoint(self.job.run_dir / FINAL_NAME, final)
        result = self._result(state)
        write_result(self.job.run_dir, result)
        for line in closing_lines(self.job.run_dir, result, self.config.trainer.early_stop_evaluations):
            self.log.say(line)
        return result

    def _result(self, inference_weights: Mapping[str, Tensor]) -> TrainingResult:
        """How the run stands now."""
        best, trainer = best_step(self.job.run_dir), self.config.trainer
        entries = metrics(self.job.run_dir)
        weights = {name: parameter.numel() for name, parameter in self.model.named_parameters()}
        return TrainingResult(
            steps=self.step,
            epoch=self.epoch,
            dev_wer=self.measurements.dev_wer,
            best_dev_wer=best[1] if best else None,
            best_step=best[0] if best else None,
            skipped_steps=int(self.totals["skipped_steps"]),
            clipped_share=self.totals["clipped_steps"] / max(1, self.step),
            utterances=len(self.data.train.speech),
            left_out_utterances=self.data.left_out,
            padding_fraction=self.sampler.padding_fraction(),
            seconds=self.totals["seconds"],
            audio_seconds=self.totals["audio_seconds"],
            data_wait_seconds=self.totals["data_wait_seconds"],
            parameters=sum(weights.values()),
            inference_parameters=sum(n for name, n in weights.items() if name in inference_weights),
            cache_fingerprint=self.data.cache_fingerprint,
            device=describe_device(self.device),
            precision=self.precision.reason,
            initial_checkpoint=trainer.initial_checkpoint,
            stopped_early=self.step < trainer.max_steps,
            gradient=gradient_summary(entries),
            listening=listening_summary(entries),
            probe_seconds=self.totals["probe_seconds"],
        )

    def train_step(self, steps: Generator[LoadedStep]) -> dict[str, float]:
        """Take the next of `begin`'s steps, or skip it where it gives no sound gradient; its figures."""
        started = time.monotonic()
        loaded = next(steps)
        outcome = self.optimisation.take(loaded, self.step)
        if outcome.fault:
            self._skip(outcome.fault, outcome.overflowed_scale)
        else:
            self.bad_steps_in_row = 0
            self.totals["clipped_steps"] += outcome.was_clipped
        self.step += 1
        self.epoch, self.step_in_epoch = loaded.step.epoch, loaded.step.step_in_epoch + 1
        seconds = time.monotonic() - started
        self.totals["seconds"] += seconds
        self.totals["audio_seconds"] += outcome.audio_seconds
        self.totals["data_wait_seconds"] += outcome.data_wait_seconds
        return outcome.figures | {
            "epoch": loaded.step.epoch,
            "audio_seconds_per_second": outcome.audio_seconds / seconds,
            "data_wait_seconds": outcome.data_wait_seconds,
        }

    def _progress(self) -> AbstractContextManager[Advance]:
        left = self.config.trainer.max_steps - self.step
        if self.ranks.is_first:
            return progress("training", total=left, unit="steps")
        return nullcontext(lambda amount=1, note="": None)

    def _skip(self, fault: str, overflowed_scale: float) -> None:
        """Count a step that is not taken; a scaled loss beyond float16 is no fault: its scale falls."""
        self.totals["skipped_steps"] += 1
        if overflowed_scale:
            self.log.say(
                f"step {self.step + 1}: skipped, gradients overflow at loss scale {overflowed_scale:g}"
            )
            return
        self.bad_steps_in_row += 1
        self.log.say(f"step {self.step + 1}: skipped, {fault}")
        if self.bad_steps_in_row >= self.config.trainer.max_bad_steps:
            raise StudentError(
                f"{self.bad_steps_in_row} steps in a row gave no sound loss (trainer.max_bad_steps), the "
                f"last: {fault}; start a new run with a lower trainer.learning_rate (now "
                f"{self.config.trainer.learning_rate:g}) or a longer trainer.warmup_steps"
            )

    def _interrupt(self, stop: StopRequest) -> None:
        self.save()
        raise TrainingInterrupted(
            f"{stop.name}: saved at step {self.step} of {self.config.trainer.max_steps}; "
            "the same command goes on from there",
            stop.exit_code,
        )

    def _checkpoint(self, model: dict[str, Tensor], optimiser: dict[str, object]) -> Checkpoint:
        vocabulary = self.data.vocabulary
        return Checkpoint(
            config=self.config,
            model=model,
            optimiser=optimiser,
            step=self.step,
            epoch=self.epoch,
            step_in_epoch=self.step_in_epoch,
            bad_steps_in_row=self.bad_steps_in_row,
            totals=self.totals,
            loss_scale=self.optimisation.scaler.state_dict(),
            spike_detector=self.optimisation.spikes.state(),
            branch_balance=self.optimisation.balance.state(),
            clipping=self.optimisation.clipping.state(),
            average=self.optimisation.average.state(),
            averaged_steps=self.optimisation.average.num_steps,
            units_model=self.data.units.model_bytes,
            pieces=vocabulary.piece_ids if vocabulary else None,
            cache_fingerprint=self.data.cache_fingerprint,
            versions={name: installed_version(name) for name in _DISTRIBUTIONS},
        )

    def _restore(self, checkpoint: Checkpoint) -> None:
        require_same_cache(self.job.run_dir, checkpoint.cache_fingerprint, self.data.cache_fingerprint)
        if checkpoint.units_model != self.data.units.model_bytes:
            raise StudentError(
                f"{self.job.units_model}: not the units that the run began with; start a new run"
            )
        self.optimisation.restore(checkpoint)
        self.step, self.epoch, self.step_in_epoch = (
            checkpoint.step,
            checkpoint.epoch,
            checkpoint.step_in_epoch,
        )
        self.saved_step = self.step
        self.measurements.go_on_from(self.step)
        self.bad_steps_in_row = checkpoint.bad_steps_in_row
        self.totals.update(checkpoint.totals)
        self.log.say(f"going on from step {self.step} of {self.config.trainer.max_steps}")
