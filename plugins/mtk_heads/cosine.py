"""The cosine of two texts encoded by themselves, scaled to the target."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtk import ConfigError, Features, Head, Target
from mtk_heads.layers import dropout_layer, pooled_pair


class Cosine(Head):
    """score = scale * cos(E1, E2) + offset, as outputs [B, 1], or as the logits (-score/2, score/2) of two classes.

    Scale and offset are learned from 4 and -2: a cosine from 0 to 1 gives a score from -2 to 2, which is the whole of
    a Range in its standardised units. Of two classes the second is the one of similar texts. The cosine is taken in
    float32 whatever the precision. Source: the baseline of "BERT and Learnie" (CS224N 2023), which fixes the scale.

    pairs_only: a task of single texts cannot use it. Raises ConfigError for such rows, for a target of more than two
    outputs, and for dropout outside [0, 1).
    """

    reads = "bi"
    pairs_only: ClassVar[bool] = True

    def __init__(self, hidden_size: int, target: Target, *, dropout: float = 0.1) -> None:
        super().__init__(hidden_size, target)
        if target.size not in (1, 2):
            raise ConfigError(
                f"expected a number or two classes as the target, found {target.size} outputs; "
                "use the head 'concat', 'linear' or 'mlp'"
            )
        self.dropout = dropout_layer(dropout)
        self.scale = nn.Parameter(torch.tensor(4.0))
        self.offset = nn.Parameter(torch.tensor(-2.0))

    def forward(self, *features: Features) -> Tensor:
        a, b = (self.dropout(part).float() for part in pooled_pair("cosine", features))
        score = self.scale * F.cosine_similarity(a, b, dim=-1) + self.offset  # [B, D], [B, D] -> [B]
        if self.target.size == 1:
            return score.unsqueeze(-1)  # [B] -> [B, 1]
        return torch.stack((-score / 2, score / 2), dim=-1)  # [B] -> [B, 2]
