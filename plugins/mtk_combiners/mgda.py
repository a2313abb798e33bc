"""MGDA: the shortest convex combination of the gradients, a descent direction of every task."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtk import GradientCombiner, MTKError, StepInfo

Normalize = Literal["none", "l2", "loss", "loss+"]
Array = NDArray[Any]  # float64


def points_of(gram: Tensor) -> Array:
    """Vectors with the Gramian `gram`, as columns: [T, T] float64 -> [R, T], R the rank.

    Each is as exact as its own length allows, however long the others are: the cosines are factored, not the Gramian.
    """
    g = gram.numpy()
    norms = np.sqrt(g.diagonal())
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    values, vectors = np.linalg.eigh(g * inverse[:, None] * inverse)
    kept = values > 4 * len(g) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return np.sqrt(values[kept])[:, None] * vectors[:, kept].T * norms


def min_norm_weights(points: Array) -> Array:
    """Weights, >= 0 with sum one, of the point nearest to zero in the convex hull of columns: [R, T] -> [T].

    For u >= 0 of any sum, min ||points u||^2 + (1 - sum u)^2 is reached at a multiple of it: non-negative least
    squares, exact by an active set (Lawson and Hanson). Columns are scaled to length one, so that no scale is lost.
    """
    from scipy.optimize import nnls

    norms = np.linalg.norm(points, axis=0)
    if not norms.all():
        return (norms == 0) / np.count_nonzero(norms == 0)
    scale = norms.min() / norms
    problem = np.vstack([points / norms, scale])
    aim = np.zeros(len(problem))
    aim[-1] = 1.0
    weights = nnls(problem, aim, maxiter=100 * len(scale))[0] * scale
    return weights / weights.sum()


def mgda_weights(gram: Tensor, divisors: Tensor | None = None) -> Tensor:
    """min_w ||sum_t w_t g_t / divisors_t||, w >= 0 with sum one: gram [T, T], divisors [T] float64 -> [T] float64.

    Sener and Koltun, Multi-Task Learning as Multi-Objective Optimization, NeurIPS 2018, arXiv 1810.04650
    (after Desideri, 2012). Their algorithm 2 approaches this by Frank-Wolfe steps; here it is solved exactly.
    """
    points = points_of(gram)
    if divisors is not None:
        points = points / divisors.numpy()
    return torch.from_numpy(min_norm_weights(points))


class MGDA(GradientCombiner):
    """Takes the min-norm point of the gradients' convex hull (arXiv 1810.04650, algorithm 2 with an exact solver).

    normalize: what the gradients are divided by when the weights are sought: nothing, their l2 norm, the task's loss,
        or both (`loss+`). As in the authors' code, the weights found then apply to the gradients as they are, and the
        update need no longer descend on every task; the paper itself has `none`.
    The weights sum to one: the update is as long as the shortest gradient at most, and zero where some convex
    combination is zero (Pareto-stationary), as it is when any one task has no gradient. Heads keep their gradients.
    Deviations: exact where the paper iterates; `loss` takes losses below 1e-12 of the largest as that much.
    """

    needs = "gram"

    def __init__(self, *, normalize: Normalize = "none") -> None:
        if normalize not in get_args(Normalize):
            raise ValueError(f"normalize: expected none, l2, loss or loss+, found {normalize!r}")
        self.normalize = normalize

    def gradient_weights(self, gram: Tensor, losses: Tensor, info: StepInfo) -> Tensor:
        """gram [T, T] float64, losses [T] -> weights [T] float64. Raises MTKError where a loss to divide by is < 0."""
        norms = gram.diagonal().sqrt()
        if self.normalize == "none" or not norms.all():  # with a zero gradient the answer is zero whatever divides
            return mgda_weights(gram)
        divisors = torch.ones_like(norms) if self.normalize == "loss" else norms
        if self.normalize != "l2":
            divisors = divisors * self._positive(losses.detach().cpu().double(), info)
        return mgda_weights(gram, divisors)

    def _positive(self, losses: Tensor, info: StepInfo) -> Tensor:
        lowest, name = min(zip(losses.tolist(), info.tasks, strict=True))
        if lowest < 0:
            raise MTKError(
                f"mgda: normalize='{self.normalize}' divides by losses >= 0, and task '{name}' has {lowest:g}; "
                "try normalize='l2'"
            )
        largest = losses.max()
        return losses.clamp(min=1e-12 * float(largest)) if largest > 0 else torch.ones_like(losses)
