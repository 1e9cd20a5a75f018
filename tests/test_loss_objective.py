"""The objective: every term named, weighted, and felt by exactly the layers at or below its tap."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_model import tiny_student

from student.config import StudentConfig
from student.data.batch import DecoderBatch, TeacherBatch, TrainingBatch
from student.errors import StudentError
from student.loss.losses import ctc_loss, distillation_loss, smoothed_cross_entropy
from student.loss.objective import Objective, combine, compute_objective, objective_terms, objective_weights
from student.model.student_model import Bert2CTC

NUM_UNITS, NUM_PIECES, EOS = 8, 10, 0
TINY = tiny_student(num_layers=4, taps=(1, 3))
ALIGNED: dict[str, Any] = dict(branch="alignment")
EVERY_TERM = {
    f"{kind}_{head}" for kind in ("ce", "kd") for head in ("tap1", "tap3", "final")
} | {"ctc", "ctc_tap1", "ctc_tap3"}  # fmt: skip


def config(**objective: Any) -> StudentConfig:
    return replace(TINY, objective=replace(TINY.objective, **objective))


def model_of(settings: StudentConfig = TINY) -> Bert2CTC:
    torch.manual_seed(0)
    return Bert2CTC(settings, NUM_UNITS, NUM_PIECES)


def batch_of(settings: StudentConfig = TINY, rows: slice = slice(None)) -> TrainingBatch:
    """Three utterances of 3, 2 and 1 pieces, with what the settings ask for."""
    random = torch.Generator().manual_seed(5)
    lengths = torch.tensor([3, 2, 1])
    pieces = torch.randint(1, NUM_PIECES, (3, 3), generator=random)
    inputs, targets = torch.zeros(3, 4, dtype=torch.int64), torch.full((3, 4), -100)
    for row, length in enumerate(lengths):
        inputs[row, : length + 1] = torch.cat((torch.tensor([EOS]), pieces[row, :length]))
        targets[row, : length + 1] = torch.cat((pieces[row, :length], torch.tensor([EOS])))
    scores = 2 * torch.randn(3, 3, NUM_PIECES, generator=random)
    scores[..., EOS] = -torch.inf
    logprobs, indices = scores.log_softmax(-1).topk(4)
    tail = torch.log1p(-logprobs.exp().sum(-1))
    padding = ~is_token(lengths)
    teacher = TeacherBatch(
        indices.masked_fill(padding.unsqueeze(2), 0)[rows],
        logprobs.masked_fill(padding.unsqueeze(2), -torch.inf)[rows],
        tail.masked_fill(padding, -torch.inf)[rows],
    )
    decoder = DecoderBatch(
        inputs[rows], targets[rows], lengths[rows], teacher if settings.objective.uses_teacher else None
    )
    return TrainingBatch(
        torch.randn(3, 60, 80, generator=random)[rows],
        torch.tensor([60, 50, 44])[rows],
        torch.randint(1, NUM_UNITS, (3, 4), generator=random)[rows],
        torch.tensor([4, 2, 3])[rows],
        decoder if settings.objective.uses_branch else None,
    )


def is_token(lengths: torch.Tensor) -> torch.Tensor:
    return torch.arange(3) < lengths.unsqueeze(1)


def both(objective: Objective) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return objective.loss, objective.terms


def objective_of(settings: StudentConfig) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return both(compute_objective(model_of(settings), batch_of(settings), settings, 3.0))


def family() -> Iterator[Any]:
    """Every member of the family, by its name in the experiments, and its terms."""
    ctc = {"ctc", "ctc_tap1", "ctc_tap3"}
    yield pytest.param(
        dict(ctc_weight=1.0, intermediate_ctc_weight=0.0, distillation_weight=0.0), {"ctc"}, id="ctc"
    )
    yield pytest.param(dict(ctc_weight=1.0, distillation_weight=0.0), ctc, id="inter_ctc")
    final_hard = dict(branch_on_taps=False, distillation_weight=0.0)
    yield pytest.param(final_hard, ctc | {"ce_final"}, id="aed_hard")
    yield pytest.param(dict(branch_on_taps=False), ctc | {"ce_final", "kd_final"}, id="aed_kd")
    hard = {"ce_final", "ce_tap1", "ce_tap3"}
    yield pytest.param(dict(distillation_weight=0.0), ctc | hard, id="interaed_hard")
    yield pytest.param({}, EVERY_TERM, id="interaed_kd")
    yield pytest.param(dict(distillation_weight=1.0), EVERY_TERM - hard, id="interaed_kd_alone")
    aligned = {"ctc_pieces_final", "ctc_pieces_tap1", "ctc_pieces_tap3"}
    yield pytest.param(ALIGNED, EVERY_TERM - hard | aligned, id="inter_alignment_kd")
    final_aligned = ALIGNED | dict(branch_on_taps=False)
    yield pytest.param(final_aligned, ctc | {"ctc_pieces_final", "kd_final"}, id="alignment_kd")


@pytest.mark.parametrize(("objective", "names"), list(family()))
def test_each_member_of_the_family_has_its_terms_and_no_other(
    objective: dict[str, Any], names: set[str]
) -> None:
    settings = config(**objective)
    total, terms = objective_of(settings)
    assert terms.keys() == names == objective_weights(settings).keys()
    assert total.isfinite() and all(term > 0 for term in terms.values())
    assert sum(objective_weights(settings).values()) == pytest.approx(1)


def test_the_total_is_the_formula() -> None:
    total, t = objective_of(config(ctc_weight=0.4, intermediate_ctc_weight=0.2, distillation_weight=0.7))
    ctc = 0.8 * t["ctc"] + 0.2 * (t["ctc_tap1"] + t["ctc_tap3"]) / 2
    attention = sum(0.3 * t[f"ce_{head}"] + 0.7 * t[f"kd_{head}"] for head in ("tap1", "tap3", "final"))
    torch.testing.assert_close(total, 0.4 * ctc + 0.6 * attention / 3)


def test_the_terms_are_the_losses_of_their_layers_over_the_utterances() -> None:
    model, batch = model_of(), batch_of()
    terms = compute_objective(model, batch, TINY, 6.0).terms
    assert batch.decoder is not None and batch.decoder.teacher is not None
    output = model(batch.features, batch.frame_lengths, batch.decoder.piece_inputs)
    teacher = batch.decoder.teacher
    for layer, head in ((1, "tap1"), (3, "tap3"), (4, "final")):
        logits = output.piece_scores[layer].logits()
        ctc = ctc_loss(output.ctc_logits[layer], output.frame_lengths, batch.units, batch.unit_lengths)
        torch.testing.assert_close(terms["ctc" if layer == 4 else f"ctc_{head}"], ctc / 6)
        cross_entropy = smoothed_cross_entropy(logits, batch.decoder.piece_targets, 0.1)
        torch.testing.assert_close(terms[f"ce_{head}"], cross_entropy / 6)
        divergence = distillation_loss(
            logits[:, :3], teacher.top_indices, teacher.top_logprobs, teacher.tail_logprob,
            is_token(batch.decoder.token_lengths), 1.0,
        )  # fmt: skip
        torch.testing.assert_close(terms[f"kd_{head}"], divergence / 6)


def test_eos_has_a_hard_label_and_no_soft_one() -> None:
    model, batch = model_of(), batch_of()
    assert batch.decoder is not None
    output = model(batch.features, batch.frame_lengths, batch.decoder.piece_inputs)
    states = output.piece_scores[4].states.detach().requires_grad_()
    scores = {4: output.piece_scores[4]._replace(states=states)}
    output = output._replace(piece_scores=scores, teacher_scores=scores, ctc_logits={})
    terms = objective_terms(output, batch, TINY, 1.0)
    rows, ends = torch.arange(3), batch.decoder.token_lengths
    (soft,) = torch.autograd.grad(terms["kd_final"], states, retain_graph=True)
    (hard,) = torch.autograd.grad(terms["ce_final"], states)
    assert soft[rows, ends].abs().max() == 0 and (hard[rows, ends].abs().amax(-1) > 0).all()


def test_micro_batches_of_one_global_batch_add_up_to_it() -> None:
    model, whole = model_of(), batch_of()
    compute_objective(model, whole, TINY, 3.0).loss.backward()
    expected = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    for rows in (slice(0, 1), slice(1, 3)):
        compute_objective(model, batch_of(rows=rows), TINY, 3.0).loss.backward()
    actual = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("is_shared", [True, False])
@pytest.mark.parametrize(
    ("branch", "name"),
    [("attention", name) for name in sorted(EVERY_TERM)]
    + [("alignment", f"{kind}_{head}") for kind in ("ctc_pieces", "kd") for head in ("tap3", "final")],
)
def test_a_term_reaches_exactly_the_layers_at_or_below_its_tap(
    branch: str, name: str, is_shared: bool
) -> None:
    settings = config(branch=branch)
    settings = replace(settings, decoder=replace(TINY.decoder, shared=is_shared))
    model = model_of(settings)
    terms = compute_objective(model, batch_of(settings), settings, 3.0).terms
    terms[name].backward()
    reached = {
        parameter_name
        for parameter_name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().max() > 0
    }
    layer = int(name.rpartition("tap")[2]) if "tap" in name else 4
    blocks = {int(reached_name.split(".")[2]) for reached_name in reached if "encoder.blocks" in reached_name}
    assert blocks == set(range(layer))
    assert any(reached_name.startswith("encoder.subsampling") for reached_name in reached)
    heads = {reached_name.split(".")[0] for reached_name in reached} - {"encoder"}
    is_unit_term = name == "ctc" or name.startswith("ctc_tap")
    assert heads == ({"ctc_head"} if is_unit_term else {"decoders"})
    if not is_unit_term and not is_shared:
        decoders = {reached_name.split(".")[1] for reached_name in reached if "decoders." in reached_name}
        assert decoders == {str(layer)}


@pytest.mark.parametrize(
    "change",
    [
        dict(ctc_weight=0.5),
        dict(intermediate_ctc_weight=0.2),
        dict(distillation_weight=0.6),
        dict(branch_on_taps=False),
        dict(branch="alignment"),
        dict(temperature=2.0),
        dict(tail="renormalise"),
        dict(label_smoothing=0.0),
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_setting_changes_the_objective(change: dict[str, Any]) -> None:
    total, _ = objective_of(TINY)
    changed, _ = objective_of(config(**change))
    assert not torch.isclose(total, changed)


def test_self_conditioning_is_trained_and_changes_every_term_above_the_first_tap() -> None:
    conditioned = replace(TINY, conformer=replace(TINY.conformer, self_conditioning=True))
    plain, model = model_of(), model_of(conditioned)
    model.load_state_dict(plain.state_dict(), strict=False)
    before = compute_objective(plain, batch_of(), TINY, 3.0).terms
    total, after = both(compute_objective(model, batch_of(), conditioned, 3.0))
    assert {name for name in before if not torch.isclose(before[name], after[name])} == {
        name for name in EVERY_TERM if not name.endswith("tap1")
    }
    total.backward()
    assert model.condition is not None and model.condition.weight.grad is not None
    assert model.condition.weight.grad.abs().max() > 0


def test_a_term_without_weight_and_a_weight_without_term_are_refused() -> None:
    term = torch.tensor(1.0)
    with pytest.raises(StudentError, match="without a weight: .'kd_final'"):
        combine({"ctc": term, "kd_final": term}, {"ctc": 1.0})
    with pytest.raises(StudentError, match="without a term: .'ce_final'"):
        combine({"ctc": term}, {"ctc": 0.5, "ce_final": 0.5})
    assert combine({"ctc": term}, {"ctc": 0.5, "ce_final": 0.0}) == 0.5


@pytest.mark.parametrize(
    ("settings", "batch"),
    [
        pytest.param(TINY, batch_of(config(distillation_weight=0.0)), id="teacher missing"),
        pytest.param(config(distillation_weight=0.0), batch_of(TINY), id="teacher not asked for"),
        pytest.param(TINY, batch_of(config(ctc_weight=1.0, distillation_weight=0.0)), id="pieces missing"),
        pytest.param(
            config(ctc_weight=1.0, distillation_weight=0.0), batch_of(TINY), id="pieces not asked for"
        ),
    ],
)
def test_a_batch_that_does_not_fit_the_settings_is_refused(
    settings: StudentConfig, batch: TrainingBatch
) -> None:
    with pytest.raises(StudentError):
        compute_objective(model_of(settings), batch, settings, 3.0)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (dict(intermediate_ctc_weight=1.0), "untrained"),
        (dict(ctc_weight=1.0, distillation_weight=0.3), "no decoder to act on"),
        (dict(branch="alignment", distillation_weight=1.0), "untrained"),
        (dict(branch="frames"), "not one of"),
    ],
)
def test_weights_that_leave_something_undefined_are_refused(objective: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**objective)


@pytest.mark.parametrize(
    ("objective", "conditioned", "key"),
    [
        ({}, False, "intermediate_ctc_weight"),
        (dict(intermediate_ctc_weight=0.0), False, "branch_on_taps"),
        (dict(intermediate_ctc_weight=0.0, branch_on_taps=False), True, "self_conditioning"),
    ],
)
def test_what_listens_to_taps_needs_taps(objective: dict[str, Any], conditioned: bool, key: str) -> None:
    without_taps = replace(TINY.conformer, taps=(), self_conditioning=conditioned)
    with pytest.raises(ValueError, match=f"{key} needs conformer.taps"):
        replace(TINY, conformer=without_taps, objective=replace(TINY.objective, **objective))


def test_bfloat16_gives_float32_terms_near_the_exact_ones_and_finite_gradients() -> None:
    model = model_of()
    exact = compute_objective(model, batch_of(), TINY, 3.0).loss
    with torch.autocast("cpu", torch.bfloat16):
        total, terms = both(compute_objective(model, batch_of(), TINY, 3.0))
    assert {term.dtype for term in terms.values()} == {torch.float32}
    torch.testing.assert_close(total, exact, rtol=0.05, atol=0)
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_few_steps_lower_every_term() -> None:
    model, batch = model_of(), batch_of()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    history = []
    for _ in range(15):
        total, terms = both(compute_objective(model, batch, TINY, 3.0))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append({name: term.item() for name, term in terms.items()})
    assert all(history[-1][name] < history[0][name] for name in EVERY_TERM)


def test_a_batch_moves_whole() -> None:
    moved = batch_of().to("meta")
    assert moved.features.device.type == "meta"
    assert moved.decoder is not None and moved.decoder.teacher is not None
    assert moved.decoder.teacher.tail_logprob.device.type == "meta"
    assert batch_of(config(ctc_weight=1.0, distillation_weight=0.0)).to("cpu").decoder is None
