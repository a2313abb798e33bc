"""Layers, checks and the views of R-Drop that the heads share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mtk import Classes, ConfigError, Features, Head, Number, Range, Target, Targets


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

    A row's loss is the mean of its views' losses + rdrop / 2 * their `disagreement`: half of the paper's equation 4,
    -log P1 - log P2 + alpha * 1/2 (KL(P1, P2) + KL(P2, P1)). So rdrop is the paper's alpha, and a task has the same
    weight beside other tasks as without R-Drop. Rows without a label count in neither part. Both views are trained: no
    gradient is stopped. One view, as in evaluation, has the target's loss and predictions. Dropout is all that makes
    the views differ: the head's own, and the encoder's, which sees every row twice.

    dropout: before the linear layer, in [0, 1); where it is not given, `--dropout` says it.
    Source: R-Drop (Wu et al., NeurIPS 2021, arXiv 2106.14448), equations 2 to 4; numbers in a range as in the authors'
    code for the STS benchmark. Raises ConfigError for dropout outside [0, 1), for rdrop that is negative or not finite,
    and for rdrop > 0 with a target that is none of Classes, Range and Number.
    """

    def __init__(self, hidden_size: int, target: Target, *, dropout: float = 0.1, rdrop: float = 0.0) -> None:
        super().__init__(hidden_size, target)
        if not (math.isfinite(rdrop) and rdrop >= 0):
            raise ConfigError(f"rdrop: expected a number of at least 0 (0 is off), found {rdrop}")
        if rdrop > 0 and not isinstance(target, Classes | Number | Range):
            raise ConfigError(
                f"rdrop: expected classes or a number as the target, found {type(target).__name__}; leave rdrop out"
            )
        self.dropout = dropout_layer(dropout)
        self.rdrop = rdrop
        self.views = 2 if rdrop > 0 else 1

    @abstractmethod
    def outputs(self, *features: Features) -> Tensor:
        """Outputs [B, C] of one view, from one Features a text."""

    def forward(self, *features: Features) -> Tensor | tuple[Tensor, Tensor]:
        """Outputs [B, C] of one view, or of each of two."""
        texts = 2 if self.reads == "bi" else 1
        if self.views == 2 and len(features) == 2 * texts:
            return self.outputs(*features[:texts]), self.outputs(*features[texts:])
        return self.outputs(*features)

    def loss(self, outputs: Any, targets: Targets) -> Tensor:
        if isinstance(outputs, Tensor):
            return self.target.loss(outputs, targets)
        first, second = outputs
        natural = (self.target.loss(first, targets) + self.target.loss(second, targets)) / 2
        return natural + self.rdrop / 2 * (disagreement(self.target, first, second) * targets.mask).sum()


def disagreement(target: Target, first: Tensor, second: Tensor) -> Tensor:
    """How far two views' outputs [B, C] are apart, row by row: [B] float32.

    Classes: 1/2 (KL(P1, P2) + KL(P2, P1)) in nats, R-Drop's equation 2. Numbers: the squared difference of the
    standardised outputs, in the unit of the squared error that is the target's loss.
    """
    if isinstance(target, Number | Range):
        return (first.float() - second.float()).square().squeeze(-1)  # [B, 1] -> [B]
    p, q = first.float().log_softmax(-1), second.float().log_softmax(-1)
    return ((p.exp() - q.exp()) * (p - q)).sum(-1) / 2  # [B, C] -> [B]
