"""GradVac: pairs of gradients are turned towards each other where they agree less than they did so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mtk import GradientCombiner, StepInfo

_NEAREST = 1 - 1e-6  # a target cosine of 1 would ask for infinitely much of the other gradient


def gradvac_weights(gram: Tensor, targets: Tensor, beta: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The weights of GradVac's update and the next targets: gram, targets [T, T] float64 -> [T], [T, T] float64.

    Task i starts with g_i' = g_i and visits the other tasks j in a fresh random order from `generator`. Where the
    cosine p of g_i' and g_j is below the target q[i, j], g_i' gains the multiple of the original g_j that makes it q:
    ||g_i'|| (q sqrt(1 - p^2) - p sqrt(1 - q^2)) / (||g_j|| sqrt(1 - q^2)); and then, whether it was or not,
    q[i, j] becomes (1 - beta) q + beta p. The update is the sum of the g_i'. Wang et al., Gradient Vaccine,
    arXiv 2010.05874, algorithm 1.

    As in `pcgrad_weights`, g_i' is kept as coefficients c [T] with d [T] = <g_i', g_k> and its squared norm <c, d>.
    """
    g, q = gram.numpy(), targets.tolist()
    tasks, norms = len(g), gram.diagonal().sqrt().tolist()
    weights = torch.zeros_like(gram[0])
    for i in range(tasks):
        c, d = torch.zeros_like(gram[0]).numpy(), g[i].copy()
        c[i] = 1.0
        norm = longest = norms[i]
        others = [j for j in range(tasks) if j != i]
        for place in torch.randperm(len(others), generator=generator, device=generator.device).tolist():
            j = others[place]
            if norms[j] == 0 or norm <= 1e-12 * longest:  # no angle: one is zero, or was cancelled to rounding
                continue
            p = max(-1.0, min(1.0, float(d[j]) / norm / norms[j]))
            target = min(q[i][j], _NEAREST)
            if p < target:
                s = norm / norms[j] * (target * math.sqrt((1 - p * p) / (1 - target * target)) - p)
                c[j] += s
                d += s * g[j]
                norm = math.sqrt(max(0.0, float(c @ d)))
                longest = max(longest, norm, abs(s) * norms[j])
            q[i][j] += beta * (p - q[i][j])
        weights += torch.from_numpy(c)
    return weights, torch.tensor(q, dtype=torch.float64)


class GradVac(GradientCombiner):
    """Raises the cosine of each pair of gradients to its moving average (arXiv 2010.05874, algorithm 1).

    beta: how fast the targets, which start at 0, follow the cosines, in [0, 1]; 0.01 in the paper, and with 0 this is
        PCGrad exactly.
    It takes the shared parameters as one group (the paper's `whole_model`; its own best results are per layer). Targets
    belong to ordered pairs of task names: a task absent from a step keeps its own. Gradients are summed, as in PCGrad.
    Deviations: a zero gradient has no cosine and is passed over; targets count as 1 - 1e-6 at most.
    """

    needs = "gram"

    def __init__(self, *, beta: float = 0.01) -> None:
        if not 0 <= beta <= 1:
            raise ValueError(f"beta: expected a number from 0 to 1, found {beta}")
        self.beta = beta
        self._targets: dict[str, dict[str, float]] = {}

    def gradient_weights(self, gram: Tensor, losses: Tensor, info: StepInfo) -> Tensor:
        """gram [T, T] float64 -> weights [T] float64, and new targets; the losses are not read."""
        kept = [[self._targets.get(a, {}).get(b, 0.0) for b in info.tasks] for a in info.tasks]
        targets = torch.tensor(kept, dtype=torch.float64)
        weights, targets = gradvac_weights(gram, targets, self.beta, info.generator)
        for a, row in zip(info.tasks, targets.tolist(), strict=True):
            found = {b: value for b, value in zip(info.tasks, row, strict=True) if a != b}
            self._targets.setdefault(a, {}).update(found)
        return weights

    def state_dict(self) -> dict[str, Any]:
        """{"targets": {task: {other task: cosine}}}"""
        return {"targets": {a: dict(row) for a, row in self._targets.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._targets = {a: dict(row) for a, row in state["targets"].items()}
