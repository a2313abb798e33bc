"""Dropout, then one linear layer."""

from __future__ import annotations

from torch import Tensor

from mtk import Features, Head, Target
from mtk_heads.layers import dropout_layer, linear_layer


class Linear(Head):
    """Pooled features [B, D] -> outputs [B, C]. Raises ConfigError for dropout outside [0, 1)."""

    reads = "cross"

    def __init__(self, hidden_size: int, target: Target, *, dropout: float = 0.1) -> None:
        super().__init__(hidden_size, target)
        self.dropout = dropout_layer(dropout)
        self.out = linear_layer(hidden_size, target.size)

    def forward(self, *features: Features) -> Tensor:
        return self.out(self.dropout(features[0].pooled))  # [B, D] -> [B, C]
