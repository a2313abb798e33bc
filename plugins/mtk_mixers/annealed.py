"""Rows in proportion to the tasks' sizes at first, and nearly equal at the end."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mtk import ConfigError, Mixer
from mtk_mixers.shares import check_total, mixed_rows


def annealed_exponent(epoch: int, epochs: int, start: float, end: float) -> float:
    """start - (start - end) epoch / (epochs - 1), with epochs from 0: a line from `start` in the first to `end` in the
    last; `start` where there is but one.

    Stickland, Murray, BERT and PALs: Projected Attention Layers for Efficient Adaptation in Multi-Task Learning,
    arXiv 1902.02671: alpha = 1 - 0.8 (e - 1) / (E - 1), with epochs e from 1 to E.
    """
    return start - (start - end) * min(1.0, epoch / max(1, epochs - 1))


class Annealed(Mixer):
    """A task's share of an epoch is size^a / sum of size^a, where a falls from 1 to 0.2 over the epochs (arXiv
    1902.02671, annealed sampling): in proportion to the sizes at first, nearly equal at the end.

    start, end: a in the first and the last epoch, from 0 (equal shares) to 1 (in proportion); the paper has 1 and 0.2.
        The epochs are those that the run was given: one that stops early never gets to the end.
    total: the rows of an epoch, all tasks together; by default the sum of min(size, 8000), as many as `capped` gives by
        default, so that mixers compare at the same cost. The authors' code, too, has as many rows in every epoch,
        whatever the sizes: 300 batches of 32 a task. Rows come again where a task's share is more than its size.
    Rows are whole (largest remainder), and a task that has rows gets one at least. Deviation: the paper draws a task
    at each step, and has these shares on average; here an epoch has exactly these rows.
    Raises ConfigError for a start or end outside [0, 1], or a total below 1, or below one row a task.
    """

    def __init__(self, *, start: float = 1.0, end: float = 0.2, total: int | None = None) -> None:
        for option, exponent in (("start", start), ("end", end)):
            if not 0 <= exponent <= 1:
                raise ConfigError(
                    f"{option}: expected an exponent from 0, equal shares, to 1, in proportion, found {exponent}"
                )
        self.start, self.end = float(start), float(end)
        self.total = check_total(total)

    def rows(self, sizes: Mapping[str, int], epoch: int, epochs: int, generator: torch.Generator) -> dict[str, int]:
        return mixed_rows(sizes, annealed_exponent(epoch, epochs, self.start, self.end), self.total)
