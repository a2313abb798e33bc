"""A combiner is a class with one method, and serves your own loop without a package.

`python examples/a_combiner_of_your_own.py`
"""

import torch
from torch import Tensor

import mtk
from mtk.testing import check_combiner


class Normalised(mtk.GradientCombiner):
    """The sum of the gradients at unit length: no task is louder than another."""

    needs = "gram"

    def gradient_weights(self, gram: Tensor, losses: Tensor, info: mtk.StepInfo) -> Tensor:
        """gram [T, T] float64 -> weights [T] float64: 1 / ||g_t||, and 0 where there is no gradient."""
        norms = gram.diagonal().sqrt()
        return torch.where(norms > 0, 1 / norms.clamp_min(1e-300), 0.0)


check_combiner(Normalised)  # what the engine will do: absent tasks, zero and huge gradients, checkpoints ...

theta = torch.zeros(2, requires_grad=True)
losses = {"loud": theta @ torch.tensor([100.0, 0.0]), "quiet": theta @ torch.tensor([0.0, 0.1])}
report = mtk.combine(losses, [theta], Normalised())
print("weights:", report.weights, "gradient:", theta.grad)
