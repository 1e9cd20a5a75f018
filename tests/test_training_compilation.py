"""torch.compile as an option: the same figures and names, and a word where it cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_loss_objective import batch_of, config, model_of

from student.loss.objective import compute_objective, objective_weights
from student.training import compilation
from student.training.compilation import compile_blocks, compile_or_say_why_not, has_compiler
from student.training.optimisation.gradient_shares import gradient_products


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PyTorch's compiler warns of PyTorch
def test_compiled_blocks_give_the_loss_and_gradients_of_eager_ones_for_every_shape() -> None:
    """Traced and differentiated as on a GPU; the code that TorchInductor writes needs one to run."""
    settings = config(distillation_weight=0.5)
    eager, compiled = model_of(settings), model_of(settings)
    names = list(compiled.state_dict())
    assert compile_blocks(compiled, backend="aot_eager") == 5
    assert list(compiled.state_dict()) == names
    for rows in (slice(0, 3), slice(1, 3), slice(0, 2)):
        batch = batch_of(settings, rows)
        for model in (eager, compiled):
            model.zero_grad()
            objective = compute_objective(model, batch, settings, 3.0)
            gradient_products(objective.terms, objective_weights(settings), objective.output.hidden)
            objective.loss.backward()
        for one, other in zip(eager.parameters(), compiled.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 8  # not one for each shape and layer


def test_where_it_cannot_be_had_training_runs_eagerly_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = model_of()
    assert "this is a cpu: training runs eagerly" in compile_or_say_why_not(model, torch.device("cpu"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert not has_compiler()
    assert "no C++ compiler (g++, clang++, c++)" in compile_or_say_why_not(model, torch.device("cuda"))
    assert not any(block._compiled_call_impl for block in model.modules())
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not compilation.has_compiler()
