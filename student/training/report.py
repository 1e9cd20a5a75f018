"""What a run says of itself to people: a line when it starts, one beside each step, and lines at its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from student.data.dataset import SpeechDataset
from student.training.device import Precision, describe_device
from student.training.run_folder import TrainingResult

LEAST_GAIN_FROM_LISTENING = 0.02  # of dev accuracy, by its own audio in place of another's
_FINAL_TERMS = ("ctc", "ce_final", "kd_final", "ctc_pieces_final")  # those of the taps are in TensorBoard


def introduction(
    device: torch.device, precision: Precision, model: nn.Module, speech: SpeechDataset, padding: float
) -> str:
    """Device, precision, size of the model and of the data, in a line; padding : its share of the batches."""
    hours = sum(utterance.seconds for utterance in speech.utterances) / 3600
    weights = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"training on {describe_device(device)} in {precision.reason}: {weights:,} weights, "
        f"{len(speech):,} utterances, {hours:.2f} hours, {padding:.1%} padding"
    )


def progress_note(figures: Mapping[str, float]) -> str:
    """What a progress bar says beside a step: the loss, the final layer's terms, the rate and the speed."""
    terms = " ".join(f"{name} {figures[name]:.2f}" for name in _FINAL_TERMS if name in figures)
    return (
        f"epoch {figures['epoch']:.0f} loss {figures['loss']:.2f} ({terms}) "
        f"rate {figures['learning_rate']:.1e} {figures['audio_seconds_per_second']:.0f} x real time"
    )


def deafness_warning(figures: Mapping[str, float]) -> str:
    """A line where the final decoder hardly owes anything to the utterance's own audio; "" where it does.

    figures : of `dev_figures`
    """
    if "accuracy_deaf_final" not in figures:
        return ""
    own, other = figures["accuracy_final"], figures["accuracy_deaf_final"]
    if own - other >= LEAST_GAIN_FROM_LISTENING:
        return ""
    return (
        f"warning: the final decoder guesses {own:.1%} with the utterance's own audio and {other:.1%} with "
        "another's: it answers from text, and the encoder learns little of it; see decoder.history "
        '("none") and decoder.attention ("aligned")'
    )


def closing_lines(run_dir: Path, result: TrainingResult, patience: int) -> list[str]:
    """What a person wants to know when the run has ended; patience : in evaluations, of an early stop."""
    lines = []
    if result.stopped_early:
        lines.append(f"no better dev WER in {patience} evaluations: stopped early")
    share = result.data_wait_seconds / result.seconds if result.seconds else 0.0
    lines.append(
        f"finished {result.steps} steps in {result.seconds:.0f} s ({share:.1%} waiting for data): {run_dir}"
    )
    return lines
