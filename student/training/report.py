"""What a run says of itself to people: a line when it starts, one beside each step, and lines at its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from student.data.dataset import SpeechDataset
from student.training.device import Precision, describe_device
from student.training.run_folder import TrainingResult

# what the final decoder must gain on dev by its own audio in place of another's, not to be called deaf
LEAST_ACCURACY_GAIN, LEAST_NATS_GAIN = 0.02, 0.1
_CLIPPED_AS_A_RULE = 0.5
_PARTS = {"ctc": "CTC", "hard": "hard labels", "soft": "KD"}
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

    figures : of `dev_figures`     Accuracy and KD are judged each by its own margin.
    """
    told = []
    own, other = (figures.get(f"accuracy{whose}_final") for whose in ("", "_deaf"))
    if own is not None and other is not None and own - other < LEAST_ACCURACY_GAIN:
        told.append(
            f"guesses {own:.1%} with the utterance's own audio and {other:.1%} with another's (margin "
            f"{100 * LEAST_ACCURACY_GAIN:g} points)"
        )
    own, other = (figures.get(f"kd_per_token{whose}_final") for whose in ("", "_deaf"))
    if own is not None and other is not None and other - own < LEAST_NATS_GAIN:
        told.append(
            f"is {own:.3f} nats a token from the teacher with the utterance's own audio and {other:.3f} with "
            f"another's (margin {LEAST_NATS_GAIN:g})"
        )
    if not told:
        return ""
    return (
        f"warning: the final decoder {', and '.join(told)}: it answers from text, and the encoder learns "
        'little of it; see decoder.history ("none") and decoder.attention ("aligned")'
    )


def closing_lines(run_dir: Path, result: TrainingResult, patience: int) -> list[str]:
    """What a person wants to know when the run has ended; patience : in evaluations, of an early stop."""
    lines = [*_gradient_lines(result), *_listening_lines(result), _clipping_line(result)]
    if result.stopped_early:
        lines.append(f"no better dev WER in {patience} evaluations: stopped early")
    share, probing = (
        part / result.seconds if result.seconds else 0.0
        for part in (result.data_wait_seconds, result.probe_seconds)
    )
    cost = f", and {probing:.1%} as much again on the probe batch" if result.gradient else ""
    lines.append(
        f"finished {result.steps} steps in {result.seconds:.0f} s ({share:.1%} waiting for data{cost}): "
        f"{run_dir}"
    )
    return lines


def _clipping_line(result: TrainingResult) -> str:
    """How often clipping acted, with the settings to change where that is the rule."""
    line = f"clipping acted in {result.clipped_share:.1%} of the steps"
    if result.clipped_share <= _CLIPPED_AS_A_RULE:
        return line
    return f"{line}, as a rule: see trainer.gradient_clip (0) and trainer.gradient_clip_ratio"


def _gradient_lines(result: TrainingResult) -> list[str]:
    """For each layer a line: the parts' shares of the gradient, and their cosines with CTC's."""
    figures, lines = result.gradient, []
    for layer in [name.removeprefix("share_ctc_") for name in figures if name.startswith("share_ctc_")]:
        told = []
        for part, name in _PARTS.items():
            if f"share_{part}_{layer}" in figures:
                cosine = figures.get(f"cosine_ctc_{part}_{layer}")
                against = "" if cosine is None else f" (cosine with CTC {cosine:+.2f})"
                told.append(f"{name} {figures[f'share_{part}_{layer}']:.1%}{against}")
        lines.append(f"gradient on the probe batch, {layer}: {', '.join(told)}")
    return lines


def _listening_lines(result: TrainingResult) -> list[str]:
    """What the final decoder scores with its own audio and with another's."""
    figures, told = result.listening, []
    if "accuracy_deaf_final" in figures:
        own, other = figures["accuracy_final"], figures["accuracy_deaf_final"]
        told.append(f"guesses {own:.1%} of dev's pieces, {other:.1%} with another utterance's audio")
    if "kd_per_token_deaf_final" in figures:
        own, other = figures["kd_per_token_final"], figures["kd_per_token_deaf_final"]
        told.append(f"is {own:.3f} nats a token from the teacher, {other:.3f} with another's")
    return [f"the final decoder {'; it '.join(told)}"] if told else []
