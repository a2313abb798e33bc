"""Two texts encoded by themselves, their features, difference and product side by side, then one linear layer."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mtk import Features, Target
from mtk_heads.layers import ViewHead, linear_layer, pooled_pair


def compare(u: Tensor, v: Tensor) -> Tensor:
    """[u; v; |u - v|; u * v]: two texts' features [B, D] -> [B, 4D]."""
    return torch.cat((u, v, (u - v).abs(), u * v), dim=-1)


class ConcatDiff(ViewHead):
    """[u; v; |u - v|; u * v] [B, 4D] -> outputs [B, C]: InferSent's features of a pair, then one linear layer.

    Sources: InferSent (Conneau et al., EMNLP 2017, arXiv 1705.02364), which has hidden layers behind them, and
    Sentence-BERT (Reimers and Gurevych, EMNLP 2019, arXiv 1908.10084), which has one linear layer for classes, and no
    u * v in its final model. A Range gets one output of the same layer here, which neither paper has.

    rdrop: the alpha of R-Drop (arXiv 2106.14448), 0 is off. pairs_only: a task of single texts cannot use it. Raises
    ConfigError for such rows, and for wrong options, as ViewHead says.
    """

    reads = "bi"
    pairs_only: ClassVar[bool] = True

    def __init__(self, hidden_size: int, target: Target, *, dropout: float = 0.1, rdrop: float = 0.0) -> None:
        super().__init__(hidden_size, target, dropout=dropout, rdrop=rdrop)
        self.out = linear_layer(4 * hidden_size, target.size)

    def outputs(self, *features: Features) -> Tensor:
        both = compare(*pooled_pair("concat-diff", features))  # [B, D], [B, D] -> [B, 4D]
        return self.out(self.dropout(both))  # [B, 4D] -> [B, C]
