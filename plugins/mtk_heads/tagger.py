"""Dropout, then one linear layer, on every token."""

from __future__ import annotations

from torch import Tensor

from mtk import ConfigError, Features, Head, Target
from mtk_heads.layers import dropout_layer, linear_layer


class Tagger(Head):
    """Features of tokens [B, L, D] -> outputs [B, L, C]. Of a pair, the first text is tagged, in sight of the second.

    Raises ConfigError for a target that is not of tokens, for dropout outside [0, 1), and for an encoder that has no
    features of tokens.
    """

    level = "token"
    reads = "cross"
    needs_tokens = True

    def __init__(self, hidden_size: int, target: Target, *, dropout: float = 0.1) -> None:
        super().__init__(hidden_size, target)
        self.dropout = dropout_layer(dropout)
        self.out = linear_layer(hidden_size, target.size)

    def forward(self, *features: Features) -> Tensor:
        tokens = features[0].tokens
        if tokens is None:
            raise ConfigError("head 'tagger': expected features of tokens, found none; choose another --encoder")
        return self.out(self.dropout(tokens))  # [B, L, D] -> [B, L, C]
