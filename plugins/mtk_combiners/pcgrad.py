"""PCGrad: where two tasks' gradients conflict, each loses its component along the other."""

from __future__ import annotations

import torch
from torch import Tensor

from mtk import GradientCombiner, StepInfo


def pcgrad_weights(gram: Tensor, generator: torch.Generator) -> Tensor:
    """The weights with which the tasks' gradients add up to PCGrad's update: gram [T, T] float64 -> [T] float64.

    Task i starts with g_i' = g_i and visits the other tasks j in a random order from `generator`, a fresh one for
    each i: where <g_i', g_j> < 0 it loses <g_i', g_j> / ||g_j||^2 times the original g_j. The update is the sum of
    the g_i'. Yu et al., Gradient Surgery for Multi-Task Learning, arXiv 2001.06782, algorithm 1.

    It never forms a gradient: each g_i' is kept as its coefficients c [T], and d [T] = <g_i', g_k> for all k.
    """
    tasks = len(gram)
    weights = torch.zeros_like(gram[0])
    for i in range(tasks):
        c, d = torch.zeros_like(gram[0]), gram[i].clone()
        c[i] = 1.0
        others = [j for j in range(tasks) if j != i]
        for place in torch.randperm(len(others), generator=generator, device=generator.device).tolist():
            j = others[place]
            if d[j] < 0 < gram[j, j]:  # a zero gradient conflicts with none
                s = d[j] / gram[j, j]
                c[j] -= s
                d -= s * gram[j]
        weights += c
    return weights


class PCGrad(GradientCombiner):
    """Projects conflicting gradients onto each other's normal plane (arXiv 2001.06782, algorithm 1).

    It acts on the shared parameters as one vector, and leaves the heads' gradients as they are; the projected
    gradients are summed, so that without conflicts it equals `sum`. No epsilon: losses may be scaled at will.
    """

    needs = "gram"

    def gradient_weights(self, gram: Tensor, losses: Tensor, info: StepInfo) -> Tensor:
        """gram [T, T] float64 -> weights [T] float64; the losses are not read."""
        return pcgrad_weights(gram, info.generator)
