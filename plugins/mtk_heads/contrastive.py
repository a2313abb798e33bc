"""Two texts' unit vectors, told from those of the batch's other rows."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtk import ConfigError, Features, Head, Target, Targets
from mtk_heads.layers import dropout_layer, pooled_pair

SHARPEST = 100.0  # of 1 / temperature, where it is learned


class Contrastive(Head):
    """Pooled features of two texts -> a / temperature and b [B, D], both of unit length before: their dot products are
    the logits of in-batch negatives, cosines divided by the temperature.

    temperature: of the cosines, above 0.
    symmetric: the mean of both directions, a among all b and b among all a; else the first alone. learned: the
    temperature is trained from where it starts, never below 0.01, as CLIP has it (Radford et al. 2021, arXiv
    2103.00020, section 2.5). Every row is told from the rows of its own micro-batch: raise the batch size for more
    negatives; `accumulate` takes some away.

    Source: multiple negatives ranking (Henderson et al. 2017, arXiv 1705.00652, section 4.4), which has no temperature
    and no unit length; with them it is InfoNCE on cosines. Raises ConfigError for a target that is not of texts, for
    rows of single texts, for a temperature that is not positive and finite, and for dropout outside [0, 1).
    """

    level = "text"
    reads = "bi"
    pairs_only: ClassVar[bool] = True

    def __init__(
        self,
        hidden_size: int,
        target: Target,
        *,
        temperature: float = 0.05,
        learned: bool = False,
        symmetric: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(hidden_size, target)
        if not (math.isfinite(temperature) and temperature > 0):
            raise ConfigError(f"temperature: expected a positive, finite number, found {temperature}")
        if learned and temperature < 1 / SHARPEST:
            raise ConfigError(
                f"temperature: expected at least {1 / SHARPEST:g} where it is learned, found {temperature}"
            )
        self.dropout = dropout_layer(dropout)
        self.symmetric = symmetric
        self.sharpness: Tensor  # the logarithm of 1 / temperature
        start = torch.tensor(-math.log(temperature))
        if learned:
            self.register_parameter("sharpness", nn.Parameter(start))
        else:
            self.register_buffer("sharpness", start)
        self.learned = learned

    def forward(self, *features: Features) -> tuple[Tensor, Tensor]:
        a, b = (F.normalize(self.dropout(part).float(), dim=-1) for part in pooled_pair("contrastive", features))
        factor = self.sharpness.exp()
        return a * (factor.clamp(max=SHARPEST) if self.learned else factor), b

    def loss(self, outputs: Any, targets: Targets) -> Tensor:
        a, b = outputs
        forth = self.target.loss((a, b), targets)
        return (forth + self.target.loss((b, a), targets)) / 2 if self.symmetric else forth
