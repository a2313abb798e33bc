"""Uncertainty weighting: each task's loss is divided by a variance that is learned along with the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mtk import ConfigError, GradientCombiner, StepInfo

_BETAS, _EPS = (0.9, 0.999), 1e-8  # Adam's


def uncertainty_weights(log_variances: Tensor) -> Tensor:
    """s [T], the logarithms of the tasks' variances -> weights [T] = exp(-s) / 2.

    Kendall et al., Multi-Task Learning Using Uncertainty to Weigh Losses, arXiv 1705.07115: the objective is the sum
    over tasks of exp(-s) L / 2 + s / 2, equation 7 with s = log sigma^2.
    """
    return 0.5 * torch.exp(-log_variances)


def uncertainty_gradient(log_variances: Tensor, losses: Tensor) -> Tensor:
    """The objective's gradient on s [T] for losses L [T] -> [T] = (1 - exp(-s) L) / 2, zero at s = log L."""
    return 0.5 - uncertainty_weights(log_variances) * losses


def adam(state: Tensor, gradient: Tensor, lr: float) -> Tensor:
    """One Adam step (arXiv 1412.6980, algorithm 1): state [T, 4] of value, first and second moment, steps -> [T, 4]."""
    value, first, second, steps = state.unbind(1)
    steps = steps + 1
    first = _BETAS[0] * first + (1 - _BETAS[0]) * gradient
    second = _BETAS[1] * second + (1 - _BETAS[1]) * gradient**2
    sure = (second / (1 - _BETAS[1] ** steps)).sqrt() + _EPS
    value = value - lr * first / (1 - _BETAS[0] ** steps) / sure
    return torch.stack([value, first, second, steps], dim=1)


class Uncertainty(GradientCombiner):
    """Loss weights exp(-s) / 2 with learned log variances s (arXiv 1705.07115, equation 7); heads are scaled too.

    The weights move towards 1 / (2 L): a common factor in one task's loss is learned away. All begin at 1/2.
    lr: of the log variances' own Adam, which steps with the step's losses at the values that weighed them, as if they
    were parameters of the model's optimizer; the paper has no other. Since Adam moves s by about lr a step, the
    default covers a factor of e in a hundred steps.
    start: the first s of every task. For classification the paper has the weight exp(-s) without the half (equation
    10), with the same s / 2: that is this objective at s - log 2, so start=-0.693 is the classification form, with
    the same training from there on; a mixture differs by where the tasks begin, no more.
    An absent task, and one whose loss is 0 (no labels) or below, keeps its s and moments. Raises ConfigError for an
    lr that is not above 0 or a start that is not finite.
    """

    needs = "losses"

    def __init__(self, *, lr: float = 0.01, start: float = 0.0) -> None:
        if not (math.isfinite(lr) and lr > 0):
            raise ConfigError(f"lr: expected a finite number above 0, found {lr}")
        if not math.isfinite(start):
            raise ConfigError(f"start: expected a finite number, found {start}")
        self.lr, self.start = float(lr), float(start)
        self._state: dict[str, Tensor] = {}  # task -> [s, first moment, second moment, steps], where the losses are

    @property
    def log_variances(self) -> dict[str, float]:
        """s of every task seen so far."""
        return {name: float(row[0]) for name, row in self._state.items()}

    def loss_weights(self, losses: Tensor, info: StepInfo) -> Tensor:
        """losses [T] -> [T], positive; then one step of the log variances. Nothing is read back from a GPU."""
        seen = losses.detach()
        seen = seen if seen.device.type == "mps" else seen.double()  # MPS has no float64
        fresh = seen.new_tensor([self.start, 0.0, 0.0, 0.0])
        state = torch.stack([self._state.get(name, fresh).to(seen) for name in info.tasks])  # [T, 4]
        moved = adam(state, uncertainty_gradient(state[:, 0], seen), self.lr)
        moved = torch.where((seen > 0).unsqueeze(1), moved, state)
        self._state.update(zip(info.tasks, moved.unbind(0), strict=True))
        return uncertainty_weights(state[:, 0]).to(losses)

    def state_dict(self) -> dict[str, Any]:
        return {"state": {name: row.tolist() for name, row in self._state.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._state = {name: torch.tensor(row, dtype=torch.float64) for name, row in state["state"].items()}
