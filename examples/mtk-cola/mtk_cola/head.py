"""A head that reads every token: where a sentence goes wrong is in one place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtk import Features, Head, Target


def attended(tokens: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """tokens [B, L, D], scores [B, L], mask [B, L] -> [B, D]: the mean of real tokens, weighed by softmax(scores)."""
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)  # [B, L]
    return (weights.unsqueeze(1) @ tokens).squeeze(1)  # [B, 1, L] @ [B, L, D] -> [B, D]


class Attend(Head):
    """Tokens [B, L, D], weighed by a learned score each, then one linear layer -> outputs [B, C]."""

    needs_tokens = True

    def __init__(self, hidden_size: int, target: Target, *, dropout: float = 0.1) -> None:
        super().__init__(hidden_size, target)
        self.score = nn.Linear(hidden_size, 1, bias=False)  # softmax takes no notice of a bias
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden_size, target.size)

    def forward(self, *features: Features) -> Tensor:
        (one,) = features
        assert one.tokens is not None  # needs_tokens
        pooled = attended(one.tokens, self.score(one.tokens).squeeze(-1), one.mask.bool())
        return self.out(self.dropout(pooled))  # [B, D] -> [B, C]
