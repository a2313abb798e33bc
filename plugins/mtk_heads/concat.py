"""Two texts encoded by themselves, their features side by side, then one linear layer."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mtk import Features, Target
from mtk_heads.layers import ViewHead, linear_layer, pooled_pair


class Concat(ViewHead):
    """[E1; E2] [B, 2D] -> outputs [B, C]: the concatenation heads of "BERT and Learnie" (CS224N 2023).

    rdrop: the alpha of R-Drop (arXiv 2106.14448), 0 is off. pairs_only: a task of single texts cannot use it. Raises
    ConfigError for such rows, and for wrong options, as ViewHead says.
    """

    reads = "bi"
    pairs_only: ClassVar[bool] = True

    def __init__(self, hidden_size: int, target: Target, *, dropout: float = 0.1, rdrop: float = 0.0) -> None:
        super().__init__(hidden_size, target, dropout=dropout, rdrop=rdrop)
        self.out = linear_layer(2 * hidden_size, target.size)

    def outputs(self, *features: Features) -> Tensor:
        both = torch.cat(pooled_pair("concat", features), dim=-1)  # [B, D], [B, D] -> [B, 2D]
        return self.out(self.dropout(both))  # [B, 2D] -> [B, C]
