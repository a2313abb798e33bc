"""Layers, checks and the views of R-Drop that the heads share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mtk import ConfigError, Features, Head, PluginError, Target, Targets


def dropout_layer(dropout: float) -> nn.Dropout:
    """nn.Dropout; ConfigError unless 0 <= dropout < 1."""
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout: expected a number from 0 up to, not including, 1, found {dropout}")
    return nn.Dropout(dropout)


def linear_layer(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer that starts as BERT's do: weights of standard deviation 0.02, a bias of 0, or none."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(layer.weight, std=0.02)
    if bias:
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


# ---------------------------------------------------------------------------------------------- R-Drop


class ViewHead(Head):
    """Outputs of one view by `outputs`; with rdrop > 0 a loss over two dropout views of each row: R-Drop.

    A row's loss is the mean of its views' losses + rdrop / 2 * the target's `divergence` of the views: half of the
    paper's equation 4, -log P1 - log P2 + alpha * 1/2 (KL(P1, P2) + KL(P2, P1)). So rdrop is the paper's alpha, and a
    task has the same weight beside other tasks as without R-Drop. What has no label counts in neither part. Both views
    are trained: no gradient is stopped. One view, as in evaluation, has the target's loss and predictions. Dropout is
    all that makes the views differ: the head's own, and the encoder's, which sees every row twice.

    dropout: before the linear layer, in [0, 1); where it is not given, `--dropout` says it.
    Source: R-Drop (Liang et al., NeurIPS 2021, arXiv 2106.14448), equations 2 to 4, of classes, and of tags token by
    token; of numbers the squared difference, as in the authors' code for the STS benchmark. The paper has neither
    several labels nor ordered classes: theirs is the divergence of each yes or no in the loss. Raises ConfigError for
    dropout outside [0, 1), for rdrop that is negative or not finite, and for rdrop > 0 with a target that has no
    divergence; PluginError for a divergence that is not a number an item.
    """

    def __init__(self, hidden_size: int, target: Target, *, dropout: float = 0.1, rdrop: float = 0.0) -> None:
        super().__init__(hidden_size, target)
        if not (math.isfinite(rdrop) and rdrop >= 0):
            raise ConfigError(f"rdrop: expected a number of at least 0 (0 is off), found {rdrop}")
        if rdrop > 0 and type(target).divergence is Target.divergence:
            raise ConfigError(
                f"rdrop: expected a target with a divergence, found {type(target).__name__}, which has none; "
                "leave rdrop out"
            )
        self.dropout = dropout_layer(dropout)
        self.rdrop = rdrop
        self.views = 2 if rdrop > 0 else 1

    @abstractmethod
    def outputs(self, *features: Features) -> Tensor:
        """Outputs of one view, [B, C] or of tokens [B, L, C], from one Features a text."""

    def forward(self, *features: Features) -> Tensor | tuple[Tensor, Tensor]:
        """Outputs of one view, or of each of two."""
        texts = 2 if self.reads == "bi" else 1
        if self.views == 2 and len(features) == 2 * texts:
            return self.outputs(*features[:texts]), self.outputs(*features[texts:])
        return self.outputs(*features)

    def loss(self, outputs: Any, targets: Targets) -> Tensor:
        if isinstance(outputs, Tensor):
            return self.target.loss(outputs, targets)
        first, second = outputs
        natural = (self.target.loss(first, targets) + self.target.loss(second, targets)) / 2
        apart = self.target.divergence(first, second)
        if apart.shape != targets.mask.shape:
            name, wanted = type(self.target).__name__, list(targets.mask.shape)
            raise PluginError(
                f"{name}.divergence: expected a number an item, of shape {wanted}, found {list(apart.shape)}; "
                "correct the target, or leave rdrop out"
            )
        return natural + self.rdrop / 2 * (apart * targets.mask).sum()
