"""What a run's encoder tells a decoder: one retrained with and without audio, and a linear probe.

    python benchmarks/decoder_listening.py RUN [--decoder-of OTHER] [--steps 2000] [--json FILE]

The encoder stays as the run left it. A new decoder of the run's own kind is trained on it twice, from one
seed and in one order: on its hidden states, and on zeros in their place. What the first gains over the second
it owes to listening. The linear probe is asked at taps and final layer which piece the teacher finds
likeliest, given the mean of the hidden states over the frames of the token's word; and once given nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from options import PATH, json_option, quick_option, write_figures
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from pipeline.console import say
from pipeline.errors import PipelineError
from pipeline.paths import Roots, roots_from
from pipeline.run_record import read_record
from student.config import AugmentationConfig, StudentConfig
from student.data.dataset import SpeechBatch, load_batches
from student.data.sampler import BatchSampler, batches_of
from student.data.training_data import Split, TrainingData, TrainingJob, load_training_data
from student.inference.averaging import inference_checkpoint
from student.loss.objective import attended_frames, compute_objective
from student.model.conformer import EncoderOutput
from student.model.outputs import layer_name
from student.model.student_model import Bert2CTC, inference_state
from student.training.device import choose_device, describe_device
from student.training.optimisation.optimiser import build_optimiser, learning_rate
from student.training.validation import dev_figures
from teacher_cache.config import CacheConfig
from teacher_cache.store import resolve

STILL = AugmentationConfig(speed_factors=(1.0,), frequency_masks=0, time_masks=0)
FIGURES = ("accuracy_final", "agreement_final", "kd_per_token_final")
NOTHING = "nothing"
WARM_UP_FRACTION, PROBE_EPOCHS, PROBE_ROWS, PROBE_RATE = 0.1, 30, 512, 3e-3


class FrozenEncoder(Bert2CTC):
    """A student whose encoder and CTC head stand still; a deaf one's decoders get zeros for hidden states."""

    is_deaf = False

    def encode(self, features: Tensor, frame_lengths: Tensor) -> EncoderOutput:
        """Hidden states without dropout or gradient."""
        self.encoder.eval()
        with torch.no_grad():
            return super().encode(features, frame_lengths)

    def decode(self, encoded: EncoderOutput, *arguments: Any) -> Any:
        """Of zeros where it is deaf."""
        if self.is_deaf:
            hidden = {layer: torch.zeros_like(states) for layer, states in encoded.hidden.items()}
            encoded = encoded._replace(hidden=hidden)
        return super().decode(encoded, *arguments)


def job_of(run: Path, decoder_of: Path, cache: str, roots: Roots) -> TrainingJob:
    """The run's corpus, units and encoder, with the decoder, the objective and the cache of the other run."""
    records = [read_record(folder) for folder in (run, decoder_of)]
    for folder, record in zip((run, decoder_of), records, strict=True):
        if record is None or "prepared" not in record:
            raise PipelineError(f"{folder}: no run is recorded there; `bert2ctc runs ls` names them")
    own, other = ({} if record is None else record for record in records)
    checkpoint, _ = inference_checkpoint(run)
    lent = inference_checkpoint(decoder_of)[0].config
    if not lent.objective.uses_teacher or lent.objective.branch != "attention":
        raise PipelineError(
            f"{decoder_of} has no attention decoder that learns from a teacher; name a run that has one "
            "with --decoder-of"
        )
    objective = replace(lent.objective, branch_from_step=0, branch_share=0.0)
    config = replace(checkpoint.config, objective=objective, decoder=lent.decoder)
    prepared, tables = Path(own["prepared"]), dict(other["config"]["cache"])
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in tables.items()}
    return TrainingJob(
        config=config,
        train_manifest=prepared / "train.jsonl",
        dev_manifest=prepared / "dev.jsonl",
        units_model=prepared / "units.model",
        data_root=roots.data,
        cache_path=resolve(roots.cache, cache or other["cache"]),
        cache_config=CacheConfig(**values),
        run_dir=run,
        scratch=roots.scratch,
    )


def student_of(job: TrainingJob, data: TrainingData, device: torch.device) -> FrozenEncoder:
    """The run's encoder and CTC head under new decoders, which the config's seed decides."""
    assert data.vocabulary is not None
    torch.manual_seed(job.config.trainer.seed)
    model = FrozenEncoder(job.config, data.units.size, data.vocabulary.num_outputs)
    checkpoint, _ = inference_checkpoint(job.run_dir)
    model.load_state_dict({**model.state_dict(), **inference_state(dict(checkpoint.model))})
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.decoders.requires_grad_(True)
    return model.to(device)


def batches(split: Split, config: StudentConfig, steps: int) -> Iterator[SpeechBatch]:
    """Training batches, one a step."""
    trainer = config.trainer
    padded = min(trainer.batch_seconds, trainer.micro_batch_seconds)
    sampler = BatchSampler(
        seconds_of=split.speech.seconds, batch_seconds=padded, micro_batch_seconds=padded, seed=trainer.seed
    )
    wanted = (
        [(step.epoch, int(index)) for index in batch]
        for step in sampler.steps()
        for batch in step.micro_batches
    )
    loaded = load_batches(split.speech, wanted)
    for _ in range(steps):
        yield next(loaded)
    loaded.close()


def retrained(job: TrainingJob, data: TrainingData, steps: int, is_deaf: bool) -> dict[str, float]:
    """Dev's figures of a decoder after so many steps on the frozen encoder, or on zeros."""
    config, device = job.config, choose_device(job.config.trainer.device)
    model = student_of(job, data, device)
    model.is_deaf = is_deaf
    schedule = replace(config.trainer, max_steps=steps, warmup_steps=max(1, round(WARM_UP_FRACTION * steps)))
    optimiser = build_optimiser(model, schedule)
    still = Split(replace(data.train.speech, augmentation=STILL), data.train.labels)
    model.train()
    for number, speech in enumerate(batches(still, config, steps), start=1):
        batch = still.training_batch(speech, model.features, device)
        objective = compute_objective(model, batch, config, len(speech.indices))
        optimiser.zero_grad(set_to_none=True)
        objective.loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.decoders.parameters(), config.trainer.gradient_clip or torch.inf)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(number, schedule)
        optimiser.step()
    assert data.dev is not None
    figures = dev_figures(model, data.dev, data.units, config, torch.float32)
    return {name: figures[name] for name in FIGURES}


@torch.no_grad()
def word_states(
    model: FrozenEncoder, split: Split, config: StudentConfig, most: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Mean states over each token's frames by layer, (N, D), and the teacher's likeliest output, int64 (N,).

    most : utterances that are read; tokens without an alignment or a teacher are left out
    """
    assert split.labels is not None
    decoder = replace(split.labels.decoder, attention="aligned", window_frames=0)
    heard = Split(split.speech, replace(split.labels, decoder=decoder, spans={}))
    device = next(model.parameters()).device
    states: dict[str, list[Tensor]] = {}
    labels = []
    order = batches_of(split.speech.seconds(0)[:most], config.trainer.micro_batch_seconds)
    keys = [[(0, int(index)) for index in batch] for batch in order]
    for speech in load_batches(split.speech, keys):
        batch = heard.training_batch(speech, model.features, device)
        encoded = model.encode(batch.features, batch.frame_lengths)
        final, pieces = config.conformer.num_layers, batch.decoder
        assert pieces is not None and pieces.teacher is not None
        logits = model.ctc_logits(encoded.hidden[final])
        attended = attended_frames(logits, encoded.frame_lengths, batch, decoder)
        windows = attended.windows[:, :-1].float()  # no token stands at <eos>
        known = pieces.teacher.top_logprobs.amax(-1).isfinite() & attended.is_aligned.unsqueeze(1)
        best = pieces.teacher.top_logprobs.argmax(-1, keepdim=True)
        labels.append(pieces.teacher.top_indices.gather(-1, best).squeeze(-1)[known])
        for layer, hidden in encoded.hidden.items():
            means = windows @ hidden.float() / windows.sum(-1, keepdim=True).clamp(min=1)
            states.setdefault(layer_name(layer, final), []).append(means[known])
    return {name: torch.cat(parts) for name, parts in states.items()}, torch.cat(labels)


def probe_accuracy(
    train: tuple[Tensor, Tensor], dev: tuple[Tensor, Tensor], num_outputs: int, epochs: int
) -> dict[str, float]:
    """How often a linear map of standardised states names the right output, on train and on dev."""
    torch.manual_seed(0)
    (states, labels), device = train, train[0].device
    mean, deviation = states.mean(0), states.std(0).clamp(min=1e-5)
    probe = nn.Linear(states.shape[1], num_outputs, device=device)
    optimiser = torch.optim.AdamW(probe.parameters(), lr=PROBE_RATE, weight_decay=1e-2)
    for _ in range(epochs):
        for rows in torch.randperm(len(states)).to(device).split(PROBE_ROWS):
            loss = functional.cross_entropy(probe((states[rows] - mean) / deviation), labels[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    with torch.no_grad():
        found = [
            float((probe((inputs - mean) / deviation).argmax(-1) == targets).float().mean())
            for inputs, targets in (train, dev)
        ]
    return {"train": found[0], "dev": found[1]}


def measured(job: TrainingJob, steps: int, most: int, epochs: int) -> dict[str, Any]:
    """Everything that the table shows, JSON-ready."""
    data, started = load_training_data(job, None, say), time.monotonic()
    if data.dev is None or data.dev.labels is None or data.vocabulary is None:
        raise PipelineError("the run's corpus has no dev split that its cache covers; nothing to measure on")
    decoders = {}
    for name, is_deaf in (("audio", False), ("zeros", True)):
        decoders[name] = retrained(job, data, steps, is_deaf)
        say(f"decoder on {name}: {steps} steps, {time.monotonic() - started:.0f} s so far")
    model = student_of(job, data, choose_device(job.config.trainer.device)).eval()
    still = Split(replace(data.train.speech, augmentation=None), data.train.labels)
    (seen, labels), (unseen, others) = (
        word_states(model, split, job.config, most) for split in (still, data.dev)
    )
    seen[NOTHING], unseen[NOTHING] = (torch.zeros(len(y), 1, device=y.device) for y in (labels, others))
    outputs = data.vocabulary.num_outputs
    probe = {
        name: probe_accuracy((states, labels), (unseen[name], others), outputs, epochs)
        for name, states in seen.items()
    }
    return {
        "run": str(job.run_dir),
        "steps": steps,
        "decoder": decoders,
        "nats_gained": decoders["zeros"]["kd_per_token_final"] - decoders["audio"]["kd_per_token_final"],
        "probe": probe,
        "probe_tokens": {"train": len(labels), "dev": len(others)},
        "device": describe_device(choose_device(job.config.trainer.device)),
        "seconds": time.monotonic() - started,
    }


def tables_of(figures: dict[str, Any]) -> list[Table]:
    """The figures for people."""
    decoders = Table("decoder retrained on", "accuracy %", "agrees with the teacher %", "KD, nats a token")
    for name, row in figures["decoder"].items():
        accuracy, agreement, nats = (row[figure] for figure in FIGURES)
        decoders.add_row(name, f"{100 * accuracy:.2f}", f"{100 * agreement:.2f}", f"{nats:.3f}")
    probe = Table("linear probe of", "train %", "dev %")
    for name, row in figures["probe"].items():
        probe.add_row(name, f"{100 * row['train']:.2f}", f"{100 * row['dev']:.2f}")
    return [decoders, probe]


@click.command()
@click.argument("run", type=PATH)
@click.option("--decoder-of", type=PATH, help="a run whose decoder and cache are taken; else RUN itself")
@click.option("--cache", default="", help="a published cache, by name, fingerprint or path; else the run's")
@click.option("--data", type=PATH, help="the data root; else BERT2CTC_DATA")
@click.option("--caches", type=PATH, help="the cache root; else BERT2CTC_CACHE")
@click.option("--steps", default=2000, show_default=True, help="of each decoder")
@click.option("--utterances", default=10_000, show_default=True, help="that the probe reads, at most")
@quick_option("a rehearsal: 3 steps, 50 utterances")
@json_option
def main(
    run: Path,
    decoder_of: Path | None,
    cache: str,
    data: Path | None,
    caches: Path | None,
    steps: int,
    utterances: int,
    quick: bool,
    json_file: Path | None,
) -> None:
    """What a finished run's encoder tells a decoder."""
    job = job_of(run, decoder_of or run, cache, roots_from({"data": data, "cache": caches}))
    threads = job.config.trainer.threads
    if threads:
        torch.set_num_threads(threads)
    chosen = (3, 50, 2) if quick else (steps, utterances, PROBE_EPOCHS)
    figures = measured(job, *chosen)
    for table in tables_of(figures):
        Console().print(table)
    write_figures(json_file, figures)


if __name__ == "__main__":
    main()
