"""Fixed weights: the sum of losses, each times a number of your own choosing."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from mtk import ConfigError, GradientCombiner, StepInfo, did_you_mean


class Weighted(GradientCombiner):
    """Multiplies each task's loss with its own constant, in one plain backward; the heads' gradients too.

    weights: by task name (`weighted:weights={"sst": 1, "sts": 0.5}`), used as they are: not normalised, and the same
    whichever tasks are present. Every trained task needs one; weights of other tasks are allowed and idle.
    Raises ConfigError where a weight is negative or not finite, none is above 0, or a present task has none.
    """

    needs = "nothing"

    def __init__(self, *, weights: Mapping[str, float]) -> None:
        self.weights = {name: float(weight) for name, weight in weights.items()}
        for name, weight in self.weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ConfigError(f"weights: {name}: expected a finite number from 0 on, found {weight}")
        if not any(self.weights.values()):
            raise ConfigError(f"weights: expected at least one above 0, found {self.weights}")

    def loss_weights(self, losses: Tensor, info: StepInfo) -> Tensor:
        """losses [T] (not read) -> [T], the present tasks' weights."""
        for name in info.tasks:
            if name not in self.weights:
                text = did_you_mean(name, self.weights)
                raise ConfigError(f"combiner 'weighted': weights: task '{name}' has none{text}")
        return losses.new_tensor([self.weights[name] for name in info.tasks])
