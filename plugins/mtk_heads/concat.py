"""Two texts encoded by themselves, their features side by side, then one linear layer."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mtk import Features, Head, Target
from mtk_heads.layers import dropout_layer, linear_layer, pooled_pair


class Concat(Head):
    """[E1; E2] [B, 2D] -> outputs [B, C]: the concatenation heads of "BERT and Learnie" (CS224N 2023).

    pairs_only: a task of single texts cannot use it. Raises ConfigError for such rows, and for dropout outside [0, 1).
    """

    reads = "bi"
    pairs_only: ClassVar[bool] = True

    def __init__(self, hidden_size: int, target: Target, *, dropout: float = 0.1) -> None:
        super().__init__(hidden_size, target)
        self.dropout = dropout_layer(dropout)
        self.out = linear_layer(2 * hidden_size, target.size)

    def forward(self, *features: Features) -> Tensor:
        both = torch.cat(pooled_pair("concat", features), dim=-1)  # [B, D], [B, D] -> [B, 2D]
        return self.out(self.dropout(both))  # [B, 2D] -> [B, C]
