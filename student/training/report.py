"""What a run says of itself: in a line when it starts, and as its result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from student.model.student_model import inference_state
from student.training.device import describe_device
from student.training.result import TrainingResult
from student.training.run_folder import best_step

if TYPE_CHECKING:  # the run writes its report with this
    from student.training.run import Run

_FINAL_TERMS = ("ctc", "ce_final", "kd_final", "ctc_pieces_final")  # those of the taps are in TensorBoard


def introduction(run: Run) -> str:
    """Device, precision, size of the model and of the data, in a line."""
    speech = run.data.train.speech
    hours = sum(utterance.seconds for utterance in speech.utterances) / 3600
    weights = sum(parameter.numel() for parameter in run.model.parameters())
    return (
        f"training on {describe_device(run.device)} in {run.precision.reason}: {weights:,} weights, "
        f"{len(speech):,} utterances, {hours:.2f} hours, {run.sampler.padding_fraction():.1%} padding"
    )


def progress_note(figures: Mapping[str, float]) -> str:
    """What a progress bar says beside a step: the loss, the final layer's terms, the rate and the speed."""
    terms = " ".join(f"{name} {figures[name]:.2f}" for name in _FINAL_TERMS if name in figures)
    return (
        f"epoch {figures['epoch']:.0f} loss {figures['loss']:.2f} ({terms}) "
        f"rate {figures['learning_rate']:.1e} {figures['audio_seconds_per_second']:.0f} x real time"
    )


def result_of(run: Run) -> TrainingResult:
    """How the run stands now."""
    best, trainer = best_step(run.job.run_dir), run.config.trainer
    weights = {name: parameter.numel() for name, parameter in run.model.named_parameters()}
    kept = inference_state(run.model.state_dict())
    return TrainingResult(
        steps=run.step,
        epoch=run.epoch,
        dev_wer=run.dev_wer,
        best_dev_wer=best[1] if best else None,
        best_step=best[0] if best else None,
        skipped_steps=int(run.totals["skipped_steps"]),
        left_out_utterances=run.data.left_out,
        padding_fraction=run.sampler.padding_fraction(),
        seconds=run.totals["seconds"],
        audio_seconds=run.totals["audio_seconds"],
        data_wait_seconds=run.totals["data_wait_seconds"],
        parameters=sum(weights.values()),
        inference_parameters=sum(count for name, count in weights.items() if name in kept),
        cache_fingerprint=run.data.cache_fingerprint,
        device=describe_device(run.device),
        precision=run.precision.reason,
        initial_checkpoint=trainer.initial_checkpoint,
        stopped_early=run.step < trainer.max_steps,
    )


def closing_lines(run: Run, result: TrainingResult) -> list[str]:
    """What a person wants to know when the run has ended."""
    lines, patience = [], run.config.trainer.early_stop_evaluations
    if result.stopped_early:
        lines.append(f"no better dev WER in {patience} evaluations: stopped early")
    share = result.data_wait_seconds / result.seconds if result.seconds else 0.0
    lines.append(
        f"finished {result.steps} steps in {result.seconds:.0f} s ({share:.1%} waiting for data): "
        f"{run.job.run_dir}"
    )
    return lines
