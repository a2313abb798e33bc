"""DualProj: the mean gradient, projected onto the directions that conflict with no task."""

from __future__ import annotations

import torch
from torch import Tensor

from mtk import GradientCombiner, StepInfo
from mtk_combiners.dual_cone import project_weights


def dualproj_weights(gram: Tensor) -> Tensor:
    """The weights of the projected mean gradient: gram [T, T] float64 -> [T] float64.

    The update is the vector nearest to the mean gradient whose inner product with no task's gradient is negative.
    Lopez-Paz and Ranzato, Gradient Episodic Memory for Continual Learning, arXiv 1706.08840, equation 11.
    """
    return project_weights(gram, torch.full_like(gram[0], 1 / len(gram)))


class DualProj(GradientCombiner):
    """Projects the mean gradient onto the cone without conflicts (arXiv 1706.08840, equation 11).

    The paper protects the gradients of earlier tasks from the gradient of the present one; here, as in TorchJD, it is
    the mean gradient that is projected, and all tasks of the step are protected. The scale is that of `mean`, which it
    equals where the mean gradient conflicts with no task. Heads are left as they are.
    """

    needs = "gram"

    def gradient_weights(self, gram: Tensor, losses: Tensor, info: StepInfo) -> Tensor:
        """gram [T, T] float64 -> weights [T] float64; the losses are not read."""
        return dualproj_weights(gram)
