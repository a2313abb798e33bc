"""One hidden layer, dropout, then a linear layer."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from mtk import ConfigError, Features, Head, Target
from mtk_heads.layers import dropout_layer, linear_layer

_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "tanh": nn.Tanh}


class MLP(Head):
    """Pooled features [B, D] -> outputs [B, C] through `hidden` units (None: D of them).

    Raises ConfigError for dropout outside [0, 1), hidden below 1, or an unknown activation.
    """

    reads = "cross"

    def __init__(
        self,
        hidden_size: int,
        target: Target,
        *,
        hidden: int | None = None,
        activation: Literal["gelu", "tanh"] = "gelu",
        dropout: float = 0.1,
    ) -> None:
        super().__init__(hidden_size, target)
        units = hidden_size if hidden is None else hidden
        if units < 1:
            raise ConfigError(f"hidden: expected at least 1 unit, found {units}")
        if activation not in _ACTIVATIONS:
            raise ConfigError(f"activation: expected one of gelu, tanh, found '{activation}'")
        self.inner = linear_layer(hidden_size, units)
        self.activation = _ACTIVATIONS[activation]()
        self.dropout = dropout_layer(dropout)
        self.out = linear_layer(units, target.size)

    def forward(self, *features: Features) -> Tensor:
        inner = self.activation(self.inner(features[0].pooled))  # [B, D] -> [B, hidden]
        return self.out(self.dropout(inner))  # [B, hidden] -> [B, C]
