"""DWA: a task whose loss falls slowly from epoch to epoch gets more weight."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mtk import ConfigError, GradientCombiner, StepInfo


def dwa_weights(rates: Tensor, temperature: float) -> Tensor:
    """rates [T], each a task's L(t - 1) / L(t - 2) -> weights [T] = T softmax(rates / temperature), of sum T.

    Liu et al., End-to-End Multi-Task Learning with Attention, arXiv 1803.10704, equation 7.
    """
    return len(rates) * (rates / temperature).softmax(0)


class DWA(GradientCombiner):
    """Dynamic weight average (arXiv 1803.10704, section 3.3): loss weights from the two previous epochs' mean losses.

    temperature: towards infinity all weights become one; the paper has 2. An epoch's mean is over the steps in which
    a task had a loss other than exactly 0 (which stands for no labels). A rate is 1 where one of the two means is
    missing: for everybody in the first two epochs, as in the paper, and for a task that an epoch was without. T counts
    the tasks present in the step. The rates compare losses as ratios, so that a task's loss scale does not matter.
    Raises ConfigError for a temperature that is not above 0.
    """

    needs = "losses"

    def __init__(self, *, temperature: float = 2.0) -> None:
        if not (math.isfinite(temperature) and temperature > 0):
            raise ConfigError(f"temperature: expected a finite number above 0, found {temperature}")
        self.temperature = float(temperature)
        self._totals: dict[int, dict[str, Tensor]] = {}  # epoch -> task -> [sum of losses, steps], where the losses are
        self._rates: dict[str, float] = {}
        self._epoch: int | None = None

    def loss_weights(self, losses: Tensor, info: StepInfo) -> Tensor:
        """losses [T] -> [T], of sum T. The epoch's sums stay on the losses' device: they are read once an epoch."""
        if info.epoch != self._epoch:
            self._begin(info.epoch)
        totals = self._totals.setdefault(info.epoch, {})
        seen = losses.detach()
        seen = seen if seen.device.type == "mps" else seen.double()  # MPS has no float64
        for name, row in zip(info.tasks, torch.stack([seen, (seen != 0).to(seen)], dim=1), strict=True):  # [T, 2]
            totals[name] = row + totals[name].to(row) if name in totals else row
        rates = losses.new_tensor([self._rates.get(name, 1.0) for name in info.tasks])
        return dwa_weights(rates, self.temperature)

    def _begin(self, epoch: int) -> None:
        self._epoch = epoch
        self._totals = {e: totals for e, totals in self._totals.items() if epoch - 2 <= e <= epoch}
        last, before = self._means(epoch - 1), self._means(epoch - 2)
        self._rates = {name: last[name] / before[name] for name in last if before.get(name, 0.0) > 0 <= last[name]}

    def _means(self, epoch: int) -> dict[str, float]:
        totals = {name: total.tolist() for name, total in self._totals.get(epoch, {}).items()}
        return {name: total / steps for name, (total, steps) in totals.items() if steps}

    def state_dict(self) -> dict[str, Any]:
        return {
            "totals": {
                str(epoch): {name: total.tolist() for name, total in totals.items()}
                for epoch, totals in self._totals.items()
            }
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._totals = {
            int(epoch): {name: torch.tensor(total, dtype=torch.float64) for name, total in totals.items()}
            for epoch, totals in state["totals"].items()
        }
        self._rates, self._epoch = {}, None  # worked out again at the next step
