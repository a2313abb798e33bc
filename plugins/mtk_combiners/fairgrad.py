"""FairGrad: the update whose gains for the tasks are fair in the sense of a number alpha."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mtk import ConfigError, GradientCombiner, StepInfo


def fairgrad_weights(gram: Tensor, alpha: float = 1.0) -> Tensor:
    """The weights w > 0 with (G w)^alpha = 1 / w: gram [T, T] float64 -> [T] float64.

    The update sum(w_i g_i) maximises the alpha-fair sum of the tasks' gains <g_i, d> over directions d. Ban and Ji,
    Fair Resource Allocation in Multi-Task Learning, arXiv 2402.15638, equation 4. alpha = 0 gives ones, the limit.

    It is the stationary point of a convex function, which a damped Newton method finds: the official code runs least
    squares on the residual. There is none where tasks cannot all gain (opposite gradients): so cosines count as 1e-8
    smaller, which keeps the weights finite. A gradient of zero is left out, and has weight 1.
    """
    weights = torch.ones_like(gram[0])
    live = gram.diagonal() > 0
    if alpha == 0 or not live.any():
        return weights
    lengths = gram.diagonal()[live].sqrt()
    cosines = gram[live][:, live] / lengths / lengths.unsqueeze(1)
    cosines = cosines.clamp(-1, 1) / (1 + 1e-8)
    cosines.fill_diagonal_(1.0)
    # Alone, a task would have w = length^(-2 alpha / (1 + alpha)): v is what remains, and no power overflows.
    log = lengths.log()
    size = (1 - alpha) / (1 + alpha) * log
    v = _balance(cosines.numpy(), (size - size.max()).exp().numpy(), alpha)
    weights[live] = (log * (-2 * alpha / (1 + alpha))).exp() * torch.from_numpy(v)
    return weights


def _balance(cosines: Any, size: Any, alpha: float) -> Any:
    """The v > 0 [T] with size * v * (cosines @ (size * v)) = size^2 * v^(1 - 1 / alpha), arrays of float64.

    Newton steps relative to v, on the convex function of which that is the gradient. A step stays where v > 0, and is
    halved until it does not overshoot.
    """
    import numpy as np
    from scipy.linalg import solve

    power, square = 1 - 1 / alpha, size * size

    def gradient(v: Any) -> tuple[Any, Any, Any]:
        q, pull = size * v, square * v**power
        return q * (cosines @ q) - pull, q, pull

    v = np.ones(len(size))
    for _ in range(300):
        slope, q, pull = gradient(v)
        hessian = q[:, None] * cosines * q
        hessian.flat[:: len(v) + 1] += pull / alpha
        scale = 1 / np.sqrt(hessian.diagonal())
        hessian *= scale[:, None] * scale
        step = -scale * solve(hessian, scale * slope, assume_a="pos", check_finite=False)
        largest = np.abs(step).max()
        if largest < 1e-7:  # the error after it is the square of that
            return v * (1 + step)
        along = step @ slope  # < 0
        t = min(1.0, 0.99 / max(1e-300, -step.min()))
        while t > 1e-12:
            tried = v * (1 + t * step)
            if (step / (1 + t * step)) @ gradient(tried)[0] <= 0.5 * abs(along):
                break
            t /= 2
        v = np.maximum(v * (1 + t * step), 1e-100)  # its square is a number still
    return v


class FairGrad(GradientCombiner):
    """Weights gradients so that the tasks' gains are alpha-fair (arXiv 2402.15638, algorithm 1).

    alpha: 0 is the plain sum, 1 proportional fairness (the solution of Nash-MTL, and the official code's default), 2
    what that code runs QM9 with; towards infinity the smallest gain counts alone. Expected 0, or from 0.1 to 10.
    Scaling all losses by s scales the update by s^((1 - alpha) / (1 + alpha)): for alpha = 1 its norm is always
    sqrt(T), and above 1 it *grows* as gradients shrink, so train with gradient clipping, as the official code does
    (to norm 1, after a factor T that this one, like the paper, has not). Heads are left as they are.
    """

    needs = "gram"

    def __init__(self, *, alpha: float = 1.0) -> None:
        if not (alpha == 0 or 0.1 <= alpha <= 10):
            raise ConfigError(f"alpha: expected 0, or a number from 0.1 to 10, found {alpha}")
        self.alpha = alpha

    def gradient_weights(self, gram: Tensor, losses: Tensor, info: StepInfo) -> Tensor:
        """gram [T, T] float64 -> weights [T] float64; the losses are not read."""
        return fairgrad_weights(gram, self.alpha)
