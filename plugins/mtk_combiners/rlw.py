"""RLW: random loss weights, drawn afresh at every step."""

from __future__ import annotations

import torch
from torch import Tensor

from mtk import GradientCombiner, StepInfo


def rlw_weights(tasks: int, generator: torch.Generator) -> Tensor:
    """The softmax of `tasks` standard normal draws from `generator` -> [T], positive, of sum 1.

    Lin et al., Reasonable Effectiveness of Random Weighting, arXiv 2111.10603, algorithm 2 with p = N(0, 1).
    """
    return torch.randn(tasks, generator=generator, device=generator.device).softmax(0)


class RLW(GradientCombiner):
    """Weighs the losses by the softmax of normal draws (arXiv 2111.10603, section 3): a baseline that learns nothing.

    Each weight is 1 / T on average, so that it equals `mean` in expectation. They are loss weights: heads are scaled
    as well. An absent task has no draw. No deviation from the paper.
    """

    needs = "nothing"

    def loss_weights(self, losses: Tensor, info: StepInfo) -> Tensor:
        """losses [T] (not read) -> [T], positive, of sum 1."""
        return rlw_weights(len(info.tasks), info.generator).to(losses)
