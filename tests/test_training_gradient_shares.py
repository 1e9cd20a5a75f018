"""What each part of the objective does to the encoder, and the scale that gives the branch its share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_loss_objective import TINY, batch_of, model_of

from student.config import StudentConfig
from student.loss.objective import compute_objective, objective_weights
from student.training.optimisation.gradient_shares import (
    figures,
    gradient_products,
    part_of,
    product_names,
    scale_for,
)

LAYERS = (1, 3, 4)


def products_of(settings: StudentConfig, rows: slice = slice(None), scale: float = 1.0) -> dict[str, float]:
    torch.manual_seed(0)
    objective = compute_objective(model_of(settings), batch_of(settings, rows), settings, 3.0)
    found = gradient_products(objective.terms, objective_weights(settings, scale), objective.output.hidden)
    return {name: float(value) for name, value in found.items()}


def test_the_parts_gradients_add_up_to_the_step_s_own() -> None:
    model, batch, weights = model_of(), batch_of(), objective_weights(TINY)
    objective = compute_objective(model, batch, TINY, 3.0)
    products = gradient_products(objective.terms, weights, objective.output.hidden)
    assert products.keys() == set(product_names(LAYERS))
    own = torch.autograd.grad(objective.loss, list(objective.output.hidden.values()))
    for layer, gradient in zip(LAYERS, own, strict=True):
        total = sum(products[f"{part}.{part}@{layer}"] for part in ("ctc", "hard", "soft"))
        pairs = ("ctc.hard", "ctc.soft", "hard.soft")
        total = total + 2 * sum(products[f"{pair}@{layer}"] for pair in pairs)
        torch.testing.assert_close(total, gradient.square().sum(), rtol=1e-4, atol=1e-8)


def test_micro_batches_add_up_and_the_graph_is_left_for_the_step() -> None:
    whole, parts = products_of(TINY), [products_of(TINY, rows) for rows in (slice(0, 1), slice(1, 3))]
    for name, value in whole.items():
        assert parts[0][name] + parts[1][name] == pytest.approx(value, rel=1e-3, abs=1e-7)
    objective = compute_objective(model_of(), batch_of(), TINY, 3.0)
    gradient_products(objective.terms, objective_weights(TINY), objective.output.hidden)
    objective.loss.backward()


@pytest.mark.parametrize("share", [0.05, 0.3, 0.8])
def test_a_branch_scaled_so_has_the_share_that_was_asked_for(share: float) -> None:
    scale = scale_for(share, products_of(TINY), LAYERS)
    assert scale is not None
    reported = figures(products_of(TINY, scale=scale), LAYERS, 1.0)
    assert reported["share_all"] == pytest.approx(share, rel=1e-4)
    assert figures(products_of(TINY), LAYERS, scale)["share_all"] == pytest.approx(share, rel=1e-4)


def test_without_a_branch_nothing_is_scaled_and_no_figure_invented() -> None:
    settings = replace(TINY, objective=replace(TINY.objective, ctc_weight=1.0, distillation_weight=0.0))
    products = products_of(settings)
    assert scale_for(0.3, products, LAYERS) is None
    reported = figures(products, LAYERS, 1.0)
    assert reported["share_all"] == 0 and not any(
        name.startswith(("norm_hard", "cosine")) for name in reported
    )


def test_cosines_are_between_the_parts_and_every_term_has_one_part() -> None:
    reported = figures(products_of(TINY), LAYERS, 2.0)
    assert all(-1.001 <= value <= 1.001 for name, value in reported.items() if name.startswith("cosine"))
    assert {"cosine_ctc_hard_tap1", "cosine_hard_soft_final", "cosine_ctc_soft_all"} <= reported.keys()
    parts = {
        "ctc": "ctc",
        "ctc_tap3": "ctc",
        "ce_final": "hard",
        "ctc_pieces_tap1": "hard",
        "kd_tap1": "soft",
    }
    assert {name: part_of(name) for name in parts} == parts
