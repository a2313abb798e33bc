"""Ordered classes along one direction."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtk import ConfigError, Features, Head, Ordinal, Target
from mtk_heads.layers import dropout_layer, linear_layer


class OrdinalHead(Head):
    """Pooled features [B, D] -> one score [B, 1] plus a bias for each threshold: outputs [B, C - 1].

    The thresholds share the weight vector, so that the probabilities of "more than class k" fall with k wherever the
    biases do, as they do where the loss is least: CORAL (Cao, Mirjalili and Raschka 2020, arXiv 1901.07884, theorem 1).
    Biases start at 0. Raises ConfigError for a target that is not Ordinal, and for dropout outside [0, 1).
    """

    reads = "cross"

    def __init__(self, hidden_size: int, target: Target, *, dropout: float = 0.1) -> None:
        super().__init__(hidden_size, target)
        if not isinstance(target, Ordinal):
            raise ConfigError(
                f"expected ordered classes as the target, found {type(target).__name__}; use the head '{target.head}'"
            )
        self.dropout = dropout_layer(dropout)
        self.out = linear_layer(hidden_size, 1, bias=False)
        self.biases = nn.Parameter(torch.zeros(target.size))

    def forward(self, *features: Features) -> Tensor:
        return self.out(self.dropout(features[0].pooled)) + self.biases  # [B, D] -> [B, 1] -> [B, C - 1]
