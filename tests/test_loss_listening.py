"""Decoders that must listen: what they may read of the transcript, and which frames they may hear."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_loss_objective import TINY, batch_of, model_of
from tiny_run import listening, tiny_job

from student.config import StudentConfig
from student.data.batch import TrainingBatch
from student.data.dataset import load_batches
from student.data.phase import Phase
from student.data.training_data import TrainingData, load_training_data
from student.loss.objective import attended_frames, compute_objective, run_model
from student.model.features import LogMel
from student.training.report import deafness_warning


def aligned(settings: StudentConfig = TINY, **decoder: Any) -> tuple[StudentConfig, TrainingBatch]:
    """A batch whose tokens have a unit each, in order, and settings under which they attend to its frames."""
    settings = replace(settings, decoder=replace(settings.decoder, attention="aligned", **decoder))
    batch = batch_of(settings)
    assert batch.decoder is not None
    first = torch.arange(4).expand(3, 4).clamp(max=(batch.unit_lengths - 1).unsqueeze(1))
    spans = torch.stack([first, first + 1], dim=2)
    return settings, replace(batch, decoder=replace(batch.decoder, unit_spans=spans))


def test_no_frame_outside_a_token_s_window_reaches_its_state() -> None:
    settings, batch = aligned(window_frames=1, self_attention=False)
    model = model_of(settings)
    output, unaligned = run_model(model, batch, settings)
    assert unaligned == 0
    mask = attended_frames(output.ctc_logits[4], output.frame_lengths, batch, settings.decoder).windows
    assert not mask.all() and mask.any(2).all()
    states = output.piece_scores[4].states
    for utterance, token in ((0, 0), (0, 2), (1, 1), (2, 0)):
        (reached,) = torch.autograd.grad(
            states[utterance, token].square().sum(), output.hidden[4], retain_graph=True
        )
        assert torch.equal(reached[utterance].abs().amax(-1) > 0, mask[utterance, token])
        assert all(reached[other].abs().max() == 0 for other in range(3) if other != utterance)


def test_alignment_takes_no_gradient_and_leaves_ctc_alone() -> None:
    settings, batch = aligned()
    free = replace(settings, decoder=replace(settings.decoder, attention="free"))
    one = compute_objective(model_of(settings), batch, settings, 3.0)
    assert batch.decoder is not None
    without = replace(batch, decoder=replace(batch.decoder, unit_spans=None))
    other = compute_objective(model_of(free), without, free, 3.0)
    assert torch.equal(one.terms["ctc"], other.terms["ctc"])
    assert not torch.isclose(one.terms["kd_final"], other.terms["kd_final"])
    assert model_of(settings).state_dict().keys() == model_of(free).state_dict().keys()


def test_an_utterance_without_spans_attends_freely_and_is_counted() -> None:
    settings, batch = aligned(window_frames=0)
    assert batch.decoder is not None and batch.decoder.unit_spans is not None
    spans = batch.decoder.unit_spans.clone()
    spans[1] = 0
    batch = replace(batch, decoder=replace(batch.decoder, unit_spans=spans))
    objective = compute_objective(model_of(settings), batch, settings, 3.0)
    assert objective.unaligned == 1
    logits, lengths = objective.output.ctc_logits[4], objective.output.frame_lengths
    mask = attended_frames(logits, lengths, batch, settings.decoder).windows
    assert mask[1].sum(1).tolist() == [int(lengths[1])] * 4 and int(mask[0].sum(1).max()) == 1


@pytest.mark.parametrize("shared", [True, False])
def test_with_one_decoder_each_hard_labels_and_teacher_share_none_of_their_weights(shared: bool) -> None:
    settings = replace(TINY, decoder=replace(TINY.decoder, separate=True, shared=shared))
    model = model_of(settings)
    terms = compute_objective(model, batch_of(settings), settings, 3.0).terms

    def decoders(kind: str) -> set[str]:
        names, parameters = zip(*model.named_parameters(), strict=True)
        total = torch.stack([term for name, term in terms.items() if name.startswith(kind)]).sum()
        found = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
        reached = [name for name, gradient in zip(names, found, strict=True) if gradient is not None]
        return {name.split(".")[1] for name in reached if name.startswith("decoders.")}

    layers = ["shared"] if shared else ["1", "3", "4"]
    assert decoders("ce_") == {f"{layer}_hard" for layer in layers}
    assert decoders("kd_") == {f"{layer}_soft" for layer in layers}


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_one_task_alone_has_one_decoder(weight: float) -> None:
    objective = replace(TINY.objective, distillation_weight=weight)
    settings = replace(TINY, objective=objective, decoder=replace(TINY.decoder, separate=True))
    assert list(model_of(settings).decoders) == ["shared"]
    assert compute_objective(model_of(settings), batch_of(settings), settings, 3.0).loss.isfinite()


@pytest.fixture(scope="module")
def data_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    job = tiny_job(tmp_path_factory.mktemp("listening"), num_train=20, num_dev=4)

    def load(**decoder: Any) -> TrainingData:
        config = listening(job.config)
        return load_training_data(
            replace(job, config=replace(config, decoder=replace(config.decoder, **decoder))),
            None,
            lambda line: None,
        )

    return load


def test_the_history_is_hidden_at_its_rate_by_utterance_and_epoch_and_never_on_dev(data_of: Any) -> None:
    data = data_of(history=0.5)
    train, vocabulary = data.train, data.vocabulary
    every = list(range(len(train.speech)))
    first, again, later = (train.labels.batch(train.speech, every, epoch).piece_inputs for epoch in (0, 0, 1))
    alone = train.labels.batch(train.speech, every[3:4], 0).piece_inputs[0]
    assert torch.equal(first, again) and not torch.equal(first, later)
    assert torch.equal(first[3, : len(alone)], alone)
    lengths = train.labels.batch(train.speech, every, 0).token_lengths + 1
    assert 0.35 < float((first == vocabulary.unknown_index).sum() / lengths.sum()) < 0.65
    dev = data.dev.labels.batch(data.dev.speech, [0, 1], 0).piece_inputs
    assert not (dev == vocabulary.unknown_index).any()


def test_without_history_every_input_is_the_unknown_piece_on_dev_too(data_of: Any) -> None:
    data = data_of(history="none")
    for split in (data.train, data.dev):
        batch = split.labels.batch(split.speech, [0, 1], 0)
        for row, length in zip(batch.piece_inputs, batch.token_lengths, strict=True):
            assert (row[: length + 1] == data.vocabulary.unknown_index).all()
        plain = (
            data_of(history="full").train.labels.batch(split.speech, [0, 1], 0)
            if split is data.train
            else batch
        )
        assert torch.equal(plain.piece_targets, batch.piece_targets)


def test_a_token_s_units_spell_its_word(data_of: Any) -> None:
    data = data_of()
    speech, labels = data.train.speech, data.train.labels
    batch = labels.batch(speech, list(range(len(speech))), 0)
    pieces = data.units.pieces
    for row, utterance in enumerate(speech.utterances):
        spelled = [
            "".join(pieces[unit] for unit in speech.unit_ids[row][start:stop]).strip("▁")
            for start, stop in batch.unit_spans[row, : int(batch.token_lengths[row])].tolist()
        ]
        assert spelled == utterance.text.split()
        ends = batch.unit_spans[row, : int(batch.token_lengths[row]) + 1]
        assert torch.equal(ends[-1], ends[-2])


def test_a_deaf_decoder_is_told_with_the_settings_to_change_and_a_listening_one_is_not() -> None:
    deaf = {"accuracy_final": 0.0886, "accuracy_deaf_final": 0.0884}
    assert (
        "8.9% with the utterance's own audio and 8.8% with another's (margin 2 points)"
        in deafness_warning(deaf)
    )
    assert "decoder.history" in deafness_warning(deaf) and "\n" not in deafness_warning(deaf)
    assert deafness_warning({"accuracy_final": 0.1505, "accuracy_deaf_final": 0.106}) == ""
    assert deafness_warning({"wer": 0.5}) == ""


def test_a_decoder_is_deaf_in_kd_where_that_gains_less_than_its_own_margin() -> None:
    guessing = {"accuracy_final": 0.15, "accuracy_deaf_final": 0.10}
    deaf = guessing | {"kd_per_token_final": 3.95, "kd_per_token_deaf_final": 4.0}
    told = deafness_warning(deaf)
    assert "3.950 nats a token" in told and "4.000 with another's (margin 0.1)" in told
    assert "guesses" not in told and "decoder.attention" in told and "\n" not in told
    assert deafness_warning(guessing | {"kd_per_token_final": 3.8, "kd_per_token_deaf_final": 4.0}) == ""
    both = deafness_warning(deaf | {"accuracy_deaf_final": 0.149})
    assert "guesses 15.0%" in both and "nats a token" in both


def test_before_its_step_attention_is_free(data_of: Any) -> None:
    data = data_of()
    (heard,) = load_batches(data.train.speech, [[(0, 0), (0, 1), (0, 2)]])
    log_mel = LogMel(listening(TINY).features)
    for is_aligned in (False, True):
        batch = data.train.training_batch(heard, log_mel, torch.device("cpu"), Phase(is_aligned=is_aligned))
        assert (batch.decoder.unit_spans is not None) == is_aligned
