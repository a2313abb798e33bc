"""Loudest: no task's gradient may be much longer than the tasks' mean."""

from __future__ import annotations

import torch
from torch import Tensor

from mtk import ConfigError, GradientCombiner, StepInfo


def loudest_weights(gram: Tensor, ratio: float) -> Tensor:
    """gram [T, T] float64 -> weights [T]: 1, or less where a gradient is longer than `ratio` times the mean length."""
    norms = gram.diagonal().sqrt()  # [T]
    limit = ratio * norms.mean()
    return (limit / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_max(1.0)


class Loudest(GradientCombiner):
    """Shortens every gradient that is longer than `ratio` times the mean length of the step's gradients, then sums.

    ratio: 1 or more; at T, the number of tasks, nothing is shortened and it equals `sum`. Raises ConfigError below 1.
    """

    needs = "gram"

    def __init__(self, *, ratio: float = 1.0) -> None:
        if ratio < 1:
            raise ConfigError(f"ratio: expected 1 or more, found {ratio}")
        self.ratio = ratio

    def gradient_weights(self, gram: Tensor, losses: Tensor, info: StepInfo) -> Tensor:
        return loudest_weights(gram, self.ratio)
