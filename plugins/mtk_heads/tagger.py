"""Dropout, then one linear layer, on every token."""

from __future__ import annotations

from torch import Tensor

from mtk import ConfigError, Features, Target
from mtk_heads.layers import ViewHead, linear_layer


class Tagger(ViewHead):
    """Features of tokens [B, L, D] -> outputs [B, L, C]. Of a pair, the first text is tagged, in sight of the second.

    rdrop: the alpha of R-Drop (arXiv 2106.14448), token by token; 0 is off. Raises ConfigError for a target that is not
    of tokens, for an encoder that has no features of tokens, and for wrong options, as ViewHead says.
    """

    level = "token"
    reads = "cross"
    needs_tokens = True

    def __init__(self, hidden_size: int, target: Target, *, dropout: float = 0.1, rdrop: float = 0.0) -> None:
        super().__init__(hidden_size, target, dropout=dropout, rdrop=rdrop)
        self.out = linear_layer(hidden_size, target.size)

    def outputs(self, *features: Features) -> Tensor:
        tokens = features[0].tokens
        if tokens is None:
            raise ConfigError("head 'tagger': expected features of tokens, found none; choose another --encoder")
        return self.out(self.dropout(tokens))  # [B, L, D] -> [B, L, C]
