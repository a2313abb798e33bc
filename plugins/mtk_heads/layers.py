"""Layers and checks that the heads share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtk import ConfigError, Features


def dropout_layer(dropout: float) -> nn.Dropout:
    """nn.Dropout; ConfigError unless 0 <= dropout < 1."""
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout: expected a number from 0 up to, not including, 1, found {dropout}")
    return nn.Dropout(dropout)


def linear_layer(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that starts as BERT's do: weights of standard deviation 0.02, no bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def pooled_pair(head: str, features: Sequence[Features]) -> tuple[Tensor, Tensor]:
    """The pooled vectors [B, D] of the two texts; ConfigError unless there are two."""
    if len(features) != 2:
        raise ConfigError(
            f"head '{head}': expected rows of two texts, found {len(features)} per row; "
            "give a task of single texts the head 'linear' or 'mlp'"
        )
    return features[0].pooled, features[1].pooled
