"""CAGrad: of the updates near the mean gradient, the one that helps the worst-off task most."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mtk import GradientCombiner, StepInfo
from mtk_combiners.mgda import Array, min_norm_weights, points_of

_FLAT = 1e-5  # what cancels out to this much of its parts counts as zero: shared gradients are float32 or less


def cagrad_weights(gram: Tensor, c: float) -> Tensor:
    """The weights of CAGrad's update d: gram [T, T] float64 -> [T] float64.

    d maximises min_t <g_t, d> over ||d - g_0|| <= c ||g_0||, g_0 the mean of the g_t. With w >= 0 of sum one that
    minimises <g_w, g_0> + c ||g_0|| ||g_w||, where g_w = sum_t w_t g_t, it is g_0 + c ||g_0|| g_w / ||g_w||.
    Liu et al., Conflict-Averse Gradient Descent, arXiv 2110.14048, algorithm 1.

    It is solved exactly by one root search: with s = c ||g_0|| / ||g_w||, the same w gives the min-norm point of the
    convex hull of the g_t + g_0 / s, and s ||g_w(s)|| grows with s. Then d = g_0 + s g_w.
    Where g_w is zero, to 1e-5 of its parts, the paper's d is not unique; the one nearest to g_0 is taken.
    """
    tasks = len(gram)
    mean = np.full(tasks, 1 / tasks)
    points = points_of(gram)  # [R, T]
    norms = np.linalg.norm(points, axis=0)
    g0 = points @ mean
    radius = c * float(np.linalg.norm(g0))
    if radius <= 1e-14 * norms.max(initial=0.0):  # c = 0, or the gradients cancel out
        return torch.from_numpy(mean)
    nearest = min_norm_weights(points)
    least = float(np.linalg.norm(points @ nearest))
    high = radius / max(least, 1e-300)
    if least <= _FLAT * float(nearest @ norms):
        apart = np.vstack([points, _FLAT * np.diag(norms)])  # no large weights that cancel out
        extra = _into_cone(apart, np.pad(g0, (0, tasks)))
        if np.linalg.norm(points @ extra) <= radius:
            return torch.from_numpy(mean + extra)
        high = float(extra.sum())
    w = _weights_on_sphere(points, g0, radius, radius / float(norms.max()), high)
    return torch.from_numpy(mean + radius / np.linalg.norm(points @ w) * w)


def _weights_on_sphere(points: Array, g0: Array, radius: float, low: float, high: float) -> Array:
    """The w whose s ||g_w|| is the radius, s between `low` and `high`."""
    from scipy.optimize import brentq

    def weights(log: float) -> Array:
        return min_norm_weights(points + math.exp(-log) * g0[:, None])

    def excess(log: float) -> float:
        length = float(np.linalg.norm(points @ weights(log)))
        return log + math.log(max(length, 1e-300) / radius)

    left, right = math.log(low), math.log(max(low, high))
    if excess(left) >= 0 or left == right:
        return weights(left)
    if excess(right) <= 0:
        return weights(right)
    return weights(brentq(excess, left, right, xtol=1e-13, rtol=1e-14))


def _into_cone(points: Array, g0: Array) -> Array:
    """u >= 0 that brings g_0 + sum_t u_t g_t nearest to g_0 among the vectors that no task objects to."""
    from scipy.optimize import nnls

    norms = np.linalg.norm(points, axis=0)
    safe = np.where(norms > 0, norms, 1.0)
    length = np.linalg.norm(g0)
    return nnls(points / safe, -g0 / length, maxiter=100 * len(safe))[0] * length / safe


class CAGrad(GradientCombiner):
    """Maximises the smallest improvement within a ball around the mean gradient (arXiv 2110.14048, algorithm 1).

    c: the ball's radius in lengths of the mean gradient, in [0, 1); 0 is the mean of the gradients, 0.5 the default.
    g_0 is the *mean*, as in the paper, so that this update is about 1/T as long as that of `sum` or `pcgrad`, and up to
    (1 + c) times the mean; for one task it is 1 + c times its gradient. It is not divided by 1 + c or 1 + c^2
    and not multiplied by T, as the authors' code does by choice. Heads keep their gradients.
    Deviations: the inner problem is solved exactly, without the code's epsilons; see `cagrad_weights` for g_w = 0.
    """

    needs = "gram"

    def __init__(self, *, c: float = 0.5) -> None:
        if not 0 <= c < 1:
            raise ValueError(f"c: expected a number from 0 to below 1, found {c}")
        self.c = c

    def gradient_weights(self, gram: Tensor, losses: Tensor, info: StepInfo) -> Tensor:
        """gram [T, T] float64 -> weights [T] float64; the losses are not read."""
        return cagrad_weights(gram, self.c)
