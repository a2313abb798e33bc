"""At most so many rows of each task an epoch."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mtk import ConfigError, Mixer


class Capped(Mixer):
    """min(size, cap) rows of each task; which ones is drawn afresh every epoch, by whoever asks.

    rows: the cap, in rows per task and epoch. Raises ConfigError where it is below 1.
    """

    def __init__(self, *, rows: int = 8000) -> None:
        if rows < 1:
            raise ConfigError(f"mixer 'capped': rows: expected at least 1 row per task and epoch, found {rows}")
        self.cap = rows

    def rows(self, sizes: Mapping[str, int], epoch: int, epochs: int, generator: torch.Generator) -> dict[str, int]:
        return {task: min(size, self.cap) for task, size in sizes.items()}
