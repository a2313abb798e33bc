"""The plain sum of losses: the baseline that every other combiner is to be measured against."""

from __future__ import annotations

import torch
from torch import Tensor

from mtk import GradientCombiner, StepInfo


class Sum(GradientCombiner):
    """Adds the tasks' losses with weight one: ordinary multitask training, in one plain backward."""

    needs = "nothing"

    def loss_weights(self, losses: Tensor, info: StepInfo) -> Tensor:
        """losses [T] (not read) -> ones [T]."""
        return torch.ones_like(losses)
