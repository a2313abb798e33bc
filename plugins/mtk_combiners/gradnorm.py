"""GradNorm: loss weights learned so that the tasks' gradient norms suit the pace at which each task learns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mtk import ConfigError, GradientCombiner, StepInfo


def gradnorm_gradient(norms: Tensor, ratios: Tensor, alpha: float) -> Tensor:
    """The gradient [T] of GradNorm's loss on the logarithms of the loss weights.

    norms: [T], G_i, of the tasks' weighted gradients. ratios: [T], L_i(t) / L_i(0). The loss is the sum over tasks of
    |G_i - mean(G) r_i^alpha| with r_i = ratio_i / mean(ratios), and the second term counts as a constant; G_i is
    proportional to w_i, so that its derivative on log w_i is sign(...) G_i.
    Chen et al., GradNorm, ICML 2018, arXiv 1711.02257, equation 2 and algorithm 1.
    """
    mean = ratios.mean()
    rates = ratios / mean if mean > 0 else torch.ones_like(ratios)
    return (norms - norms.mean() * rates**alpha).sign() * norms


class GradNorm(GradientCombiner):
    """Gradient normalization (ICML 2018, arXiv 1711.02257, algorithm 1): learned loss weights of sum T, heads too.

    alpha: how strongly tasks that learn slowly are favoured; 0 makes all gradient norms equal, the paper has 1.5 for
    unlike tasks and 0.12 for like ones. lr: the step of log w. L(0) is a task's first loss above 0 in the run.
    Deviations. The norms are over all shared parameters (the paper: one layer, to save time), from the Gramian. The
    step is on log w with the loss divided by the mean norm: weights stay positive, and a common factor of the losses
    changes nothing (the paper steps w with its network's optimizer). The paper's renormalisation to sum T is over the
    tasks present in a step; a step keeps their share of the weight of all. A task that is absent or whose loss is 0
    (no labels) or below keeps its weight. Raises ConfigError for an alpha below 0 or an lr that is not above 0.
    """

    needs = "gram"

    def __init__(self, *, alpha: float = 1.5, lr: float = 0.025) -> None:
        if not (math.isfinite(alpha) and alpha >= 0):
            raise ConfigError(f"alpha: expected a finite number from 0 on, found {alpha}")
        if not (math.isfinite(lr) and lr > 0):
            raise ConfigError(f"lr: expected a finite number above 0, found {lr}")
        self.alpha, self.lr = float(alpha), float(lr)
        self._logs: dict[str, float] = {}  # log w, by task
        self._first: dict[str, float] = {}  # L(0), by task

    def loss_weights(self, losses: Tensor, info: StepInfo) -> Tensor:
        """losses [T] (not read) -> [T], positive, of sum T."""
        logs = torch.tensor([self._logs.get(name, 0.0) for name in info.tasks], dtype=torch.float64)
        return (len(info.tasks) * logs.softmax(0)).to(losses)

    def gradient_weights(self, gram: Tensor, losses: Tensor, info: StepInfo) -> Tensor:
        """gram [T, T] of the weighted gradients -> ones [T]; the loss weights of the next step are learned from it."""
        seen = dict(zip(info.tasks, zip(gram.diagonal().tolist(), losses.tolist(), strict=True), strict=True))
        seen = {name: (square, loss) for name, (square, loss) in seen.items() if 0 < loss < math.inf}
        for name, (_, loss) in seen.items():
            self._first.setdefault(name, loss)
        norms = torch.tensor([max(0.0, square) for square, _ in seen.values()], dtype=torch.float64).sqrt()
        if norms.any():
            ratios = torch.tensor([loss / self._first[n] for n, (_, loss) in seen.items()], dtype=torch.float64)
            logs = torch.tensor([self._logs.get(name, 0.0) for name in seen], dtype=torch.float64)
            moved = logs - self.lr * gradnorm_gradient(norms, ratios, self.alpha) / norms.mean()
            moved += logs.logsumexp(0) - moved.logsumexp(0)
            self._logs.update(zip(seen, moved.tolist(), strict=True))
        return torch.ones(len(info.tasks), dtype=torch.float64)

    def state_dict(self) -> dict[str, Any]:
        return {"logs": dict(self._logs), "first": dict(self._first)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._logs, self._first = dict(state["logs"]), dict(state["first"])
