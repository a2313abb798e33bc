"""Nash-MTL: tasks bargain for the update, and the Nash solution has equal relative gains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mtk import ConfigError, GradientCombiner, StepInfo
from mtk_combiners.fairgrad import fairgrad_weights


def nash_mtl_weights(gram: Tensor) -> Tensor:
    """The weights a > 0 of the Nash bargaining solution: gram [T, T] float64 -> [T] float64.

    They solve G a = 1 / a: each task's gain <g_i, d> from d = sum(a_i g_i) is the inverse of its weight. Navon et al.,
    Multi-Task Learning as a Bargaining Game, arXiv 2202.01017, algorithm 1. The norm of d is sqrt(T).

    The paper approximates a by a sequence of convex problems. It is exact here, by one: the minimum of
    a^T G a / 2 - sum(log a), which is also FairGrad's system with alpha = 1, whose solver this uses (see there for
    opposite gradients and those of zero).
    """
    return fairgrad_weights(gram, 1.0)


class NashMTL(GradientCombiner):
    """Weights gradients by the Nash bargaining solution (arXiv 2202.01017, algorithm 1).

    update_every: steps from one solution to the next; the weights in between are those of the last. It saves little
    here, as a solution takes less than a millisecond. A step with a task that has no weight yet solves at once.
    max_norm: a longer update of the shared parameters is scaled down to it, 1 as in the official code; 0 for no limit.
    Only the directions of the gradients count, so the update of a fresh solution has norm sqrt(T) however large the
    losses: the limit of 1 makes every one a step of that length. A gradient of zero leaves its task's weight as it
    was, 1 at first. Unlike in the official code, which weighs losses, heads are left as they are.
    """

    needs = "gram"

    def __init__(self, *, update_every: int = 1, max_norm: float = 1.0) -> None:
        if update_every < 1:
            raise ConfigError(f"update_every: expected at least 1 step, found {update_every}")
        if not 0 <= max_norm < float("inf"):
            raise ConfigError(f"max_norm: expected a norm, or 0 for no limit, found {max_norm}")
        self.update_every, self.max_norm = update_every, max_norm
        self._weights: dict[str, float] = {}
        self._age = 0  # steps since the weights were solved for

    def gradient_weights(self, gram: Tensor, losses: Tensor, info: StepInfo) -> Tensor:
        """gram [T, T] float64 -> weights [T] float64; the losses are not read."""
        if self._age % self.update_every == 0 or any(name not in self._weights for name in info.tasks):
            self._age = 0
            solved = nash_mtl_weights(gram)
            for name, weight, square in zip(info.tasks, solved.tolist(), gram.diagonal().tolist(), strict=True):
                self._weights[name] = weight if square > 0 else self._weights.get(name, 1.0)
        self._age += 1
        weights = torch.tensor([self._weights[name] for name in info.tasks], dtype=torch.float64)
        norm = float((weights @ gram @ weights).clamp(min=0).sqrt())
        return weights * (self.max_norm / norm) if 0 < self.max_norm < norm else weights

    def state_dict(self) -> dict[str, Any]:
        """The weights by task name, before the limit on the norm, and the steps since they were solved for."""
        return {"weights": dict(self._weights), "age": self._age}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._weights = {name: float(weight) for name, weight in state["weights"].items()}
        self._age = int(state["age"])
