"""The branch's scale: its share of the encoder's gradient, measured on whole steps, held where asked for."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from student.config import StudentConfig
from student.data.phase import is_share_due
from student.loss.objective import Objective, objective_weights
from student.training.distributed import Ranks
from student.training.optimisation.gradient_shares import gradient_products, product_names, scale_for


class BranchBalance:
    """The branch's scale, and the measurements that set it; the scale travels in the checkpoint.

    scale : what the branch's weights are multiplied by; 1 until its gradient has been measured
    """

    def __init__(self, config: StudentConfig) -> None:
        self._config, self._objective = config, config.objective
        self._weights = objective_weights(config)
        self._layers = (*config.conformer.taps, config.conformer.num_layers)
        self._products: dict[str, Tensor] = {}
        self.scale = 1.0

    @property
    def is_on(self) -> bool:
        """True where the config asks for a share."""
        return self._objective.uses_branch and self._objective.branch_share > 0

    def is_due(self, step: int) -> bool:
        """True in the branch's first step where a share is asked for, then as often as the config says."""
        return self.is_on and is_share_due(self._config, step)

    def measure(self, objective: Objective) -> None:
        """Add a micro-batch of the step, before its backward pass frees the graph."""
        found = gradient_products(objective.terms, self._weights, objective.output.hidden)
        for name, value in found.items():
            self._products[name] = self._products.get(name, 0) + value

    def settle(self, ranks: Ranks) -> None:
        """From now on the branch is scaled by what was measured, over all ranks."""
        mine = {name: float(value) for name, value in self._products.items()}
        products = ranks.sum_figures(mine, product_names(self._layers))
        scale = scale_for(self._objective.branch_share, products, self._layers)
        self.scale = self.scale if scale is None else scale
        self._products = {}

    def state(self) -> dict[str, float]:
        """What `restore` takes."""
        return {"scale": self.scale}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from a state."""
        self.scale = state["scale"]
