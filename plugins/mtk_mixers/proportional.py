"""Rows in proportion to the tasks' sizes."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mtk import Mixer
from mtk_mixers.shares import check_total, mixed_rows


class Proportional(Mixer):
    """A task's share of an epoch is size / sum of sizes (arXiv 1902.02671, alpha = 1; arXiv 1910.10683, 3.5.2).

    total: the rows of an epoch, all tasks together. By default as many as `capped` gives by default, the sum of
        min(size, 8000): mixers then compare at the same cost, one large task does not make an epoch long, and where
        no task has more than 8,000 rows it is every row once.
    Rows are whole (largest remainder), and a task that has rows gets one at least. Deviation: the papers draw a task
    at each step, and have these shares on average; here an epoch has exactly these rows.
    Raises ConfigError for a total below 1, or below one row a task.
    """

    def __init__(self, *, total: int | None = None) -> None:
        self.total = check_total(total)

    def rows(self, sizes: Mapping[str, int], epoch: int, epochs: int, generator: torch.Generator) -> dict[str, int]:
        return mixed_rows(sizes, 1.0, self.total)
