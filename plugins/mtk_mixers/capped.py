"""At most so many rows of each task an epoch."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mtk import ConfigError, Mixer, did_you_mean

ROWS = 8000  # the default cap, and the measure of the other mixers' epochs


class Capped(Mixer):
    """min(size, cap) rows of each task; which ones is drawn afresh every epoch, by whoever asks.

    rows: the cap, in rows per task and epoch; None for no cap. per_task: the caps of single tasks, in its place, by
    name (`rows=none,per_task={"quora": 6000}`). Raises ConfigError for a cap below 1 or a task that is not trained.
    """

    def __init__(self, *, rows: int | None = ROWS, per_task: Mapping[str, int] | None = None) -> None:
        self.cap, self.per_task = rows, dict(per_task or {})
        for option, cap in {"rows": rows, **{f"per_task: {task}": cap for task, cap in self.per_task.items()}}.items():
            if cap is not None and cap < 1:
                raise ConfigError(f"{option}: expected at least 1 row an epoch, found {cap}")

    def rows(self, sizes: Mapping[str, int], epoch: int, epochs: int, generator: torch.Generator) -> dict[str, int]:
        for task in self.per_task:
            if task not in sizes:
                raise ConfigError(f"mixer 'capped': per_task: no task '{task}' is trained{did_you_mean(task, sizes)}")
        caps = {task: self.per_task.get(task, self.cap) for task in sizes}
        return {task: size if (cap := caps[task]) is None else min(size, cap) for task, size in sizes.items()}
