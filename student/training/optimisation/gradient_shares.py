"""What each part of the objective does to the encoder: norms and angles of its gradient where it is heard."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

import torch
from torch import Tensor

from student.model.outputs import layer_name

CTC, HARD, SOFT = "ctc", "hard", "soft"
PARTS = (CTC, HARD, SOFT)
SCALE_LIMIT = 1e4  # of the branch, in both directions: a decoder that has nothing to say is not amplified
_PAIRS = ((CTC, HARD), (CTC, SOFT), (HARD, SOFT))
_PRODUCTS = (*((part, part) for part in PARTS), *_PAIRS)


def product_names(layers: tuple[int, ...]) -> list[str]:
    """Names of the figures of `gradient_products`, for every layer that is listened to."""
    return [f"{one}.{other}@{layer}" for layer in layers for one, other in _PRODUCTS]


def gradient_products(
    terms: Mapping[str, Tensor], weights: Mapping[str, float], hidden: Mapping[int, Tensor]
) -> dict[str, Tensor]:
    """Inner products of the weighted parts' gradients at each layer's hidden states, by `product_names`.

    hidden : (B, T', D) by layer     weights : of `objective_weights`, unscaled
    Each part costs a backward pass from its heads down to the lowest tap; the graph stays for the step's own.
    Products of micro-batches and ranks add up to those of the global batch, since no state is in two of them.
    """
    states = list(hidden.values())
    gradients: dict[str, list[Tensor]] = {}
    for part in PARTS:
        own = [weights[name] * term for name, term in terms.items() if part_of(name) == part]
        if own:
            found = torch.autograd.grad(torch.stack(own).sum(), states, retain_graph=True, allow_unused=True)
            gradients[part] = [
                torch.zeros_like(state) if gradient is None else gradient.float()
                for gradient, state in zip(found, states, strict=True)
            ]
    products = {}
    for one, other in _PRODUCTS:
        if one in gradients and other in gradients:
            for layer, mine, its in zip(hidden, gradients[one], gradients[other], strict=True):
                products[f"{one}.{other}@{layer}"] = (mine * its).sum()
    return products


def part_of(term: str) -> str:
    """Which part of the objective a term belongs to."""
    if term.startswith("kd_"):
        return SOFT
    return HARD if term.startswith(("ce_", "ctc_pieces_")) else CTC


def figures(products: Mapping[str, float], layers: tuple[int, ...], branch_scale: float) -> dict[str, float]:
    """Norms, the branch's share and cosines by name, for each layer and "all" of them.

    norm_<part>_<layer> : as weighted, hard and soft with `branch_scale`
    share_<part>_<layer> : a part's norm over the sum of all parts' norms, 0..1
    share_<layer> : the same of the branch as a whole against CTC     cosine_<part>_<part>_<layer>
    """
    found: dict[str, float] = {}
    final = max(layers)
    for name, chosen in [(layer_name(layer, final), (layer,)) for layer in layers] + [("all", layers)]:
        sums = _summed(products, chosen)
        scales = {CTC: 1.0, HARD: branch_scale, SOFT: branch_scale}
        norms = {part: scales[part] * sqrt(max(sums[part, part], 0.0)) for part in PARTS}
        ctc, branch = norms[CTC], branch_scale * _branch_norm(sums)
        for part, norm in norms.items():
            if norm or part == CTC:
                found[f"norm_{part}_{name}"] = norm
                found[f"share_{part}_{name}"] = norm / (sum(norms.values()) or 1.0)
        if branch + ctc > 0:
            found[f"share_{name}"] = branch / (branch + ctc)
        for one, other in _PAIRS:
            if norms[one] and norms[other]:
                lengths = sqrt(sums[one, one]) * sqrt(sums[other, other])
                found[f"cosine_{one}_{other}_{name}"] = sums[one, other] / lengths
    return found


def scale_for(share: float, products: Mapping[str, float], layers: tuple[int, ...]) -> float | None:
    """What the branch's weights are multiplied by for it to have this share of the gradient at all layers.

    None where either part has no gradient: the scale stays as it was.
    """
    sums = _summed(products, layers)
    ctc, branch = sqrt(max(sums[CTC, CTC], 0.0)), _branch_norm(sums)
    if not ctc or not branch:
        return None
    return min(max(share / (1 - share) * ctc / branch, 1 / SCALE_LIMIT), SCALE_LIMIT)


def _summed(products: Mapping[str, float], layers: tuple[int, ...]) -> dict[tuple[str, str], float]:
    """Products of each two parts over these layers, 0 where a part is absent."""
    return {
        (one, other): sum(products.get(f"{one}.{other}@{layer}", 0.0) for layer in layers)
        for one, other in _PRODUCTS
    }


def _branch_norm(sums: Mapping[tuple[str, str], float]) -> float:
    return sqrt(max(sums[HARD, HARD] + sums[SOFT, SOFT] + 2 * sums[HARD, SOFT], 0.0))
