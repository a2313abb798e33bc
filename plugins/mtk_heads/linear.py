"""Dropout, then one linear layer."""

from __future__ import annotations

from torch import Tensor

from mtk import Features, Target
from mtk_heads.layers import ViewHead, linear_layer


class Linear(ViewHead):
    """Pooled features [B, D] -> outputs [B, C].

    rdrop: the alpha of R-Drop (arXiv 2106.14448), 0 is off. Raises ConfigError for wrong options, as ViewHead says.
    """

    reads = "cross"

    def __init__(self, hidden_size: int, target: Target, *, dropout: float = 0.1, rdrop: float = 0.0) -> None:
        super().__init__(hidden_size, target, dropout=dropout, rdrop=rdrop)
        self.out = linear_layer(hidden_size, target.size)

    def outputs(self, *features: Features) -> Tensor:
        return self.out(self.dropout(features[0].pooled))  # [B, D] -> [B, C]
