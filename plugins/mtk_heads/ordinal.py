"""Ordered classes along one direction."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtk import ConfigError, Features, Ordinal, Target
from mtk_heads.layers import ViewHead, linear_layer


class OrdinalHead(ViewHead):
    """Pooled features [B, D] -> one score [B, 1] plus a bias for each threshold: outputs [B, C - 1].

    The thresholds share the weight vector, so that the probabilities of "more than class k" fall with k wherever the
    biases do, as they do where the loss is least: CORAL (Cao, Mirjalili and Raschka 2020, arXiv 1901.07884, theorem 1).
    A bias starts at 0 and is the sum of D parameters, where CORAL has one: the score is a sum over D weights, each of
    which Adam moves by about the learning rate, and one parameter would stay behind it. (D times one parameter would be
    as fast, but its gradient would fill the norm that clipping allows.)

    rdrop: the alpha of R-Drop (arXiv 2106.14448), 0 is off. Raises ConfigError for a target that is not Ordinal, and
    for wrong options, as ViewHead says.
    """

    reads = "cross"

    def __init__(self, hidden_size: int, target: Target, *, dropout: float = 0.1, rdrop: float = 0.0) -> None:
        super().__init__(hidden_size, target, dropout=dropout, rdrop=rdrop)
        if not isinstance(target, Ordinal):
            raise ConfigError(
                f"expected ordered classes as the target, found {type(target).__name__}; use the head '{target.head}'"
            )
        self.out = linear_layer(hidden_size, 1, bias=False)
        self.biases = nn.Parameter(torch.zeros(target.size, hidden_size))

    def outputs(self, *features: Features) -> Tensor:
        score = self.out(self.dropout(features[0].pooled))  # [B, D] -> [B, 1]
        return score + self.biases.sum(-1)  # [B, 1] + [C - 1] -> [B, C - 1]
