"""How a model in training does on the dev split, and what that decides: when to stop, what to keep."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

from student.config import StudentConfig
from student.data.batch import DecoderBatch, TrainingBatch
from student.data.dataset import load_batches
from student.data.phase import WHOLE, Phase
from student.data.sampler import batches_of
from student.data.training_data import Split
from student.data.units import Units
from student.decoding.greedy import transcripts_of
from student.loss.objective import attended_frames, combine, objective_terms, objective_weights, run_model
from student.loss.sliced_losses import best_pieces, piece_losses, piece_rows
from student.metrics import count_errors
from student.model.conformer import EncoderOutput
from student.model.outputs import StudentOutput, layer_name
from student.model.student_model import Bert2CTC


@torch.inference_mode()
def dev_figures(
    model: Bert2CTC,
    dev: Split,
    units: Units,
    config: StudentConfig,
    dtype: torch.dtype,
    phase: Phase = WHOLE,
) -> dict[str, float]:
    """Figures by name; the model is left in the mode it came in.

    wer, cer, wer_tap<k> : of greedy decoding     ctc, ce_*, kd_* : terms per utterance, loss : their sum
    accuracy_<layer> : next pieces that the decoder gets right; agreement_<layer> : where its likeliest
    piece is the teacher's. Decoders' figures only where the cache covers the split.
    kd_per_token_final : in nats a token     accuracy_deaf_final, kd_per_token_deaf_final : of the final
        layer's decoder with the audio of the batch's next utterance; what it does not lose by that it does
        not owe to listening
    phase : of the training; before its branch begins there are no decoders' figures
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    count = len(dev.speech)
    texts: dict[int, list[str]] = {layer: [""] * count for layer in model.ctc_layers}
    sums: dict[str, float] = defaultdict(float)
    batches = batches_of(dev.speech.seconds(0), config.trainer.micro_batch_seconds)
    keys = [[(0, int(index)) for index in batch] for batch in batches]
    for speech in load_batches(dev.speech, keys, config.trainer.data_workers):
        batch = dev.training_batch(speech, model.features, device, phase)
        listens = batch.decoder is not None and config.objective.branch == "attention"
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            output, _ = run_model(model, batch, config)
            terms = objective_terms(output, batch, config, count)
            if dev.labels is not None or not config.objective.uses_branch:
                terms["loss"] = combine(terms, objective_weights(config, has_branch=phase.has_branch))
            if listens and len(speech.indices) > 1:
                _count_listening(model, output, batch, config, sums)
                sums["nats_own"] += count * float(terms.get("kd_final", 0.0))
        for name, term in terms.items():
            sums[name] += float(term)
        if batch.decoder and config.objective.branch == "attention":
            _count_pieces(output, batch.decoder, config, sums)
        for layer, logits in output.ctc_logits.items():
            rows = transcripts_of(logits, output.frame_lengths, units)
            for index, text in zip(speech.indices, rows, strict=True):
                texts[layer][index] = text
    model.train(was_training)
    return _error_rates([u.text for u in dev.speech.utterances], texts) | _fractions(sums)


def _error_rates(references: list[str], texts: dict[int, list[str]]) -> dict[str, float]:
    final = max(texts)
    figures: dict[str, float] = {}
    for layer, hypotheses in texts.items():
        counts = count_errors(references, hypotheses)
        figures["wer" if layer == final else f"wer_tap{layer}"] = counts.wer
        if layer == final:
            figures["cer"] = counts.cer
    return figures


def _count_pieces(
    output: StudentOutput, decoder: DecoderBatch, config: StudentConfig, sums: dict[str, float]
) -> None:
    """Add guessed pieces, and positions where decoder and teacher agree, to `sums`."""
    rows = piece_rows(decoder)
    for layer, scores in output.piece_scores.items():
        name = layer_name(layer, config.conformer.num_layers)
        guesses = best_pieces(scores.at(rows.positions), config.decoder.logits_megabytes)
        sums[f"accuracy_{name}"] += int((guesses == rows.targets).sum())
        if rows.top_indices is not None and rows.top_logprobs is not None:
            likeliest = rows.top_indices.gather(-1, rows.top_logprobs.argmax(-1, keepdim=True))
            known = rows.top_logprobs.amax(-1).isfinite()
            sums[f"agreement_{name}"] += int(((guesses == likeliest[:, 0]) & known).sum())
    sums["pieces_accuracy"] += int((rows.targets >= 0).sum())
    sums["pieces_agreement"] += int(rows.is_token.sum())


def _count_listening(
    model: Bert2CTC,
    output: StudentOutput,
    batch: TrainingBatch,
    config: StudentConfig,
    sums: dict[str, float],
) -> None:
    """Add to `sums` what the final layer's decoders score with the audio of another utterance.

    Utterance i gets the audio of utterance i + 1 of the batch, its windows stretched to that one's length.
    """
    assert batch.decoder is not None
    final, lengths = config.conformer.num_layers, output.frame_lengths
    other, mask = EncoderOutput({final: output.hidden[final].roll(-1, 0)}, lengths.roll(-1, 0)), None
    if batch.decoder.unit_spans is not None:
        logits = output.ctc_logits[final]
        mask = attended_frames(logits, lengths, batch, config.decoder, other.frame_lengths).windows
    rows, mebibytes = piece_rows(batch.decoder), config.decoder.logits_megabytes
    inputs = batch.decoder.piece_inputs
    scores = {role: model.decode(other, inputs, mask, role, (final,))[final] for role in model.roles}
    hard, soft = scores[model.roles[0]], scores[model.roles[-1]]
    guesses = best_pieces(hard.at(rows.positions), mebibytes)
    sums["accuracy_deaf_final"] += int((guesses == rows.targets).sum())
    sums["pieces_deaf"] += int((rows.targets >= 0).sum())
    sums["nats_deaf"] += float(piece_losses(soft, rows, config.objective, mebibytes, ["kd"]).get("kd", 0.0))
    sums["tokens"] += int(rows.is_token.sum())


def _fractions(sums: dict[str, float]) -> dict[str, float]:
    """Counts over pieces become fractions, sums over tokens means; everything else stays."""
    pieces = {kind: sums.pop(f"pieces_{kind}", 0.0) for kind in ("accuracy", "agreement", "deaf")}
    tokens, own, deaf = (sums.pop(name, 0.0) for name in ("tokens", "nats_own", "nats_deaf"))
    if tokens and deaf:
        sums |= {"kd_per_token_final": own / tokens, "kd_per_token_deaf_final": deaf / tokens}
    for name in list(sums):
        kind = "deaf" if name == "accuracy_deaf_final" else name.split("_")[0]
        if kind in pieces:
            sums[name] /= pieces[kind]
    return sums


def has_stopped_improving(wers: Sequence[float], patience: int) -> bool:
    """True where the last `patience` of the rates, in their order, brought none below the earlier best.

    patience : 0 never stops
    """
    return len(wers) > patience > 0 and min(wers[:-patience]) <= min(wers[-patience:])


def is_among_best(step: int, wers: Mapping[int, float], count: int) -> bool:
    """True where the step's rate is among the `count` lowest; of equals the earlier counts."""
    return step in heapq.nsmallest(count, wers, key=wers.__getitem__)
