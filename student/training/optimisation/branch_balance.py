"""How much the branch weighs against CTC at the encoder: measured on whole steps, scaled where asked for."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from student.config import StudentConfig
from student.loss.objective import Objective, objective_weights
from student.training.distributed import Ranks
from student.training.optimisation.gradient_shares import (
    figures,
    gradient_products,
    product_names,
    scale_for,
)


class BranchBalance:
    """The branch's scale, and the measurements that set it; the scale travels in the checkpoint.

    scale : what the branch's weights are multiplied by; 1 until its gradient has been measured
    """

    def __init__(self, config: StudentConfig) -> None:
        self._objective, self._weights = config.objective, objective_weights(config)
        self._layers = (*config.conformer.taps, config.conformer.num_layers)
        self._products: dict[str, Tensor] = {}
        self.scale = 1.0

    def is_due(self, step: int) -> bool:
        """True in the first step of a run with a branch, and then as often as the config says."""
        every = self._objective.share_every_steps
        return bool(every) and self._objective.uses_branch and step % every == 0

    def measure(self, objective: Objective) -> None:
        """Add a micro-batch of the step, before its backward pass frees the graph."""
        found = gradient_products(objective.terms, self._weights, objective.output.hidden)
        for name, value in found.items():
            self._products[name] = self._products.get(name, 0) + value

    def settle(self, ranks: Ranks) -> dict[str, float]:
        """Figures of what was measured, over all ranks; from now on the branch is scaled by it."""
        mine = {name: float(value) for name, value in self._products.items()}
        products = ranks.sum_figures(mine, product_names(self._layers))
        measured = figures(products, self._layers, self.scale)
        share = self._objective.branch_share
        scale = scale_for(share, products, self._layers) if share else None
        self.scale = self.scale if scale is None else scale
        self._products = {}
        return measured

    def state(self) -> dict[str, float]:
        """What `restore` takes."""
        return {"scale": self.scale}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from a state."""
        self.scale = state["scale"]
