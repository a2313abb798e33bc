"""FAMO: the losses' logarithms fall at like rates, learned from how far the last step moved each of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mtk import ConfigError, GradientCombiner, MTKError, StepInfo

_FLOOR = 1e-8  # of a loss after the step, whose logarithm is taken


def famo_weights(logits: Tensor, losses: Tensor) -> Tensor:
    """logits [T], losses [T] -> weights [T] = c z / losses, where z = softmax(logits) and c makes their sum 1.

    That is softmax(logits - log losses). A loss that is not above 0 gets 0 and leaves the sum to the others.
    Liu et al., FAMO: Fast Adaptive Multitask Optimization, arXiv 2306.03792, algorithm 1, the update of theta.
    """
    live = losses > 0
    scores = torch.where(live, logits - losses.log(), -torch.inf)
    return torch.where(live, scores.softmax(0), 0.0)


def famo_gradient(logits: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """delta [T], against which the logits [T] step, from the losses [T] of the same rows before and after the update.

    delta_i = z_i (d_i - sum_j z_j d_j) with d = log before - log after: d times the Jacobian of softmax at the logits.
    arXiv 2306.03792, algorithm 1, the update of xi.
    """
    z, d = logits.softmax(0), before.log() - after.clamp_min(_FLOOR).log()
    return z * (d - (z * d).sum())


class FAMO(GradientCombiner):
    """Fast adaptive multitask optimization (arXiv 2306.03792, algorithm 1): loss weights that a second look teaches.

    After each step the losses of the same rows are computed again, and the logits of tasks that lag behind rise:
    logits -= lr * (delta + gamma * logits). The weights sum to 1 and scale heads too. A common factor of the losses
    changes nothing, and one of a single task is divided out.
    lr: beta of the algorithm; gamma: its decay. Both are the paper's numbers, which it (and its code) uses with Adam
    and weight decay: this is the plain step as algorithm 1 has it, whose moves are as small as the changes of the
    losses, so that a larger lr (1 and more) adapts as fast as Adam's 0.025.
    The softmax is over the tasks present; an absent task, and one whose loss is 0 (no labels) or that is not finite
    after the step, keeps its logit. Raises ConfigError for an lr that is not above 0 or a gamma below 0, MTKError for
    a loss below 0, which has no logarithm.
    """

    needs = "losses"
    looks_again = True

    def __init__(self, *, lr: float = 0.025, gamma: float = 0.001) -> None:
        if not (math.isfinite(lr) and lr > 0):
            raise ConfigError(f"lr: expected a finite number above 0, found {lr}")
        if not (math.isfinite(gamma) and gamma >= 0):
            raise ConfigError(f"gamma: expected a finite number from 0 on, found {gamma}")
        self.lr, self.gamma = float(lr), float(gamma)
        self._logits: dict[str, float] = {}
        self._before: tuple[tuple[str, ...], Tensor] | None = None

    def loss_weights(self, losses: Tensor, info: StepInfo) -> Tensor:
        """losses [T] -> [T], of sum 1 (of 0 where no loss is above 0)."""
        self._before = info.tasks, losses.detach()
        logits = losses.new_tensor([self._logits.get(name, 0.0) for name in info.tasks])
        return famo_weights(logits, losses.detach())

    def after_step(self, losses_again: Tensor, info: StepInfo) -> None:
        """losses [T] of the same rows after the step: moves the logits."""
        if self._before is None or self._before[0] != info.tasks:
            raise MTKError(f"famo: after_step of {', '.join(info.tasks)} follows no step of just these tasks")
        before, after = self._before[1].cpu().double(), losses_again.detach().cpu().double()
        self._before = None
        for name, loss in zip(info.tasks, before.tolist(), strict=True):
            if loss < 0:
                raise MTKError(f"famo takes logarithms: expected losses from 0 on, found {loss:g} of task '{name}'")
        live = (before > 0) & after.isfinite()
        names = [name for name, fine in zip(info.tasks, live.tolist(), strict=True) if fine]
        logits = torch.tensor([self._logits.get(name, 0.0) for name in names], dtype=torch.float64)
        moved = logits - self.lr * (famo_gradient(logits, before[live], after[live]) + self.gamma * logits)
        self._logits.update(zip(names, moved.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        return {"logits": dict(self._logits)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._logits, self._before = dict(state["logits"]), None
