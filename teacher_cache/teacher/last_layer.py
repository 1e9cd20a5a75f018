"""The last layer of a masked language model, computed at the hidden tokens alone.

Nothing reads the other tokens' outputs: they need keys and values there, but no query, no output projection
and no feed-forward network. That leaves a sixth of the layer's work, and is exact.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from teacher_cache.errors import CacheError

FAMILIES = ("bert", "roberta", "distilbert")


class LastLayer(nn.Module):
    """A post-norm Transformer layer in parts, as BERT (Devlin et al. 2019) and its kin have it."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    attention_output: nn.Module
    attention_norm: nn.Module
    widen: nn.Module
    activation: nn.Module
    narrow: nn.Module
    output_norm: nn.Module

    def __init__(self, num_heads: int, **parts: nn.Module) -> None:
        super().__init__()
        self.num_heads = num_heads
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, hidden: Tensor, row: Tensor, position: Tensor) -> Tensor:
        """The layer's output at h positions, (h, D).

        hidden : (B, L, D), what the layer reads     row, position : int64 (h,), where; a row may
        hold several or none
        """
        chosen = hidden[row, position]
        query = self._heads(self.query(chosen)).unsqueeze(-2)  # (h, H, 1, D / H)
        key, value = (
            self._heads(project(hidden)).transpose(1, 2)[row]  # (h, H, L, D / H)
            for project in (self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        x = self.attention_norm(self.attention_output(attended.flatten(1)) + chosen)
        output: Tensor = self.output_norm(self.narrow(self.activation(self.widen(x))) + x)
        return output

    def _heads(self, x: Tensor) -> Tensor:
        """(..., D) to (..., H, D / H)."""
        return x.view(*x.shape[:-1], self.num_heads, -1)


def require_family(family: str, source: str) -> None:
    """CacheError that names `source` for a model of another family than FAMILIES."""
    if family not in FAMILIES:
        raise CacheError(
            f"{source}: a {family!r} model; name a teacher of the families {', '.join(FAMILIES)}"
        )


def part_last_layer(model: Any) -> LastLayer:
    """Takes the last layer out of a masked language model, which from then on ends one layer earlier.

    model : of a family in FAMILIES, in evaluation mode. Raises CacheError for another one, and for a model
    without a layer.
    """
    family = model.config.model_type
    require_family(family, model.name_or_path)
    owner = model.base_model.transformer if family == "distilbert" else model.base_model.encoder
    if not len(owner.layer):
        raise CacheError(f"{model.name_or_path}: the encoder has no layer; name another under [teacher]")
    layer = owner.layer[-1]
    owner.layer = owner.layer[:-1]
    return _parts_of_distilbert(layer) if family == "distilbert" else _parts_of_bert(layer)


def _parts_of_bert(layer: Any) -> LastLayer:
    attention = layer.attention.self
    return LastLayer(
        num_heads=attention.num_attention_heads,
        query=attention.query,
        key=attention.key,
        value=attention.value,
        attention_output=layer.attention.output.dense,
        attention_norm=layer.attention.output.LayerNorm,
        widen=layer.intermediate.dense,
        activation=layer.intermediate.intermediate_act_fn,
        narrow=layer.output.dense,
        output_norm=layer.output.LayerNorm,
    )


def _parts_of_distilbert(layer: Any) -> LastLayer:
    attention = layer.attention
    return LastLayer(
        num_heads=attention.n_heads,
        query=attention.q_lin,
        key=attention.k_lin,
        value=attention.v_lin,
        attention_output=attention.out_lin,
        attention_norm=layer.sa_layer_norm,
        widen=layer.ffn.lin1,
        activation=layer.ffn.activation,
        narrow=layer.ffn.lin2,
        output_norm=layer.output_layer_norm,
    )
