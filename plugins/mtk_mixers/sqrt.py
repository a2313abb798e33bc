"""Rows in proportion to the square roots of the tasks' sizes."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mtk import Mixer
from mtk_mixers.shares import check_total, mixed_rows


class Sqrt(Mixer):
    """A task's share of an epoch is sqrt(size) / sum of sqrt(size) (arXiv 1902.02671, alpha = 0.5).

    total: the rows of an epoch, all tasks together; by default the sum of min(size, 8000), as many as `capped` gives by
        default, so that mixers compare at the same cost. Rows come again where a task's share is more than its size.
    Rows are whole (largest remainder), and a task that has rows gets one at least. Deviation: the paper draws a task
    at each step, and has these shares on average; here an epoch has exactly these rows.
    Raises ConfigError for a total below 1, or below one row a task.
    """

    def __init__(self, *, total: int | None = None) -> None:
        self.total = check_total(total)

    def rows(self, sizes: Mapping[str, int], epoch: int, epochs: int, generator: torch.Generator) -> dict[str, int]:
        return mixed_rows(sizes, 0.5, self.total)
