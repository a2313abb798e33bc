"""The mean of losses: the sum with a gradient that does not grow with the number of tasks."""

from __future__ import annotations

import torch
from torch import Tensor

from mtk import GradientCombiner, StepInfo


class Mean(GradientCombiner):
    """Averages the losses of the tasks present in a step, in one plain backward.

    These are loss weights: the heads' gradients are divided by T too, as they are where a loop averages its losses.
    """

    needs = "nothing"

    def loss_weights(self, losses: Tensor, info: StepInfo) -> Tensor:
        """losses [T] (not read) -> [T], each 1 / T, where T counts the tasks present in the step."""
        return torch.full_like(losses, 1 / len(info.tasks))
