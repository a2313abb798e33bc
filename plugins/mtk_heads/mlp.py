"""One hidden layer, dropout, then a linear layer."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from mtk import ConfigError, Features, Target
from mtk_heads.layers import ViewHead, linear_layer

_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "tanh": nn.Tanh}


class MLP(ViewHead):
    """Pooled features [B, D] -> outputs [B, C] through `hidden` units (None: D of them).

    hidden: how many units; None for D. activation: of these units. rdrop: the alpha of R-Drop (arXiv 2106.14448), 0 is
    off. Raises ConfigError for hidden below 1, an unknown activation, and other wrong options, as ViewHead says.
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
        rdrop: float = 0.0,
    ) -> None:
        super().__init__(hidden_size, target, dropout=dropout, rdrop=rdrop)
        units = hidden_size if hidden is None else hidden
        if units < 1:
            raise ConfigError(f"hidden: expected at least 1 unit, found {units}")
        if activation not in _ACTIVATIONS:
            raise ConfigError(f"activation: expected one of gelu, tanh, found '{activation}'")
        self.inner = linear_layer(hidden_size, units)
        self.activation = _ACTIVATIONS[activation]()
        self.out = linear_layer(units, target.size)

    def outputs(self, *features: Features) -> Tensor:
        inner = self.activation(self.inner(features[0].pooled))  # [B, D] -> [B, hidden]
        return self.out(self.dropout(inner))  # [B, hidden] -> [B, C]
