"""Rows in proportion to the tasks' sizes at a temperature."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from mtk import ConfigError, Mixer
from mtk_mixers.shares import check_total, mixed_rows


class Temperature(Mixer):
    """A task's share of an epoch is size^(1/temperature) / sum of size^(1/temperature) (arXiv 1910.10683, 3.5.2).

    temperature: 1 is `proportional`, 2 is `sqrt`, and towards infinity all shares are equal; 2 did best in the paper.
    total: the rows of an epoch, all tasks together; by default the sum of min(size, 8000), as many as `capped` gives by
        default, so that mixers compare at the same cost. Rows come again where a task's share is more than its size.
    Rows are whole (largest remainder), and a task that has rows gets one at least. Deviations: the paper draws at
    random, and has these shares on average, where here an epoch has exactly these rows; and it limits the sizes to an
    artificial K first, which is left out.
    Raises ConfigError for a temperature that is not above 0, or a total below 1, or below one row a task.
    """

    def __init__(self, *, temperature: float = 2.0, total: int | None = None) -> None:
        if not (math.isfinite(temperature) and temperature > 0):
            raise ConfigError(f"temperature: expected a finite number above 0, found {temperature}")
        self.temperature = float(temperature)
        self.total = check_total(total)

    def rows(self, sizes: Mapping[str, int], epoch: int, epochs: int, generator: torch.Generator) -> dict[str, int]:
        return mixed_rows(sizes, 1 / self.temperature, self.total)
