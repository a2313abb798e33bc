"""UPGrad: each task's gradient loses what conflicts with any task, then they are averaged."""

from __future__ import annotations

import torch
from torch import Tensor

from mtk import GradientCombiner, StepInfo
from mtk_combiners.dual_cone import project_weights


def upgrad_weights(gram: Tensor) -> Tensor:
    """The weights of UPGrad's update: gram [T, T] float64 -> [T] float64.

    Each gradient is projected onto the dual cone of all of them, the nearest vector that conflicts with no task, and
    the mean of the projections conflicts with none either. Quinton and Rey, Jacobian Descent for Multi-Objective
    Optimization, arXiv 2406.16232, where proposition 1 turns a projection into weights.
    """
    tasks = len(gram)
    return project_weights(gram, torch.eye(tasks, dtype=torch.float64)).mean(0)


class UPGrad(GradientCombiner):
    """Projects every gradient onto the cone without conflicts, and averages (arXiv 2406.16232).

    The scale is the paper's: without conflicts it equals the `mean` of the shared gradients, 1 / T of what `sum` and
    `pcgrad` give. Weights are never below 1 / T; multiplying one gradient multiplies its own projection alone.
    Heads are left as they are. Nothing is added to the Gramian.
    """

    needs = "gram"

    def gradient_weights(self, gram: Tensor, losses: Tensor, info: StepInfo) -> Tensor:
        """gram [T, T] float64 -> weights [T] float64; the losses are not read."""
        return upgrad_weights(gram)
