"""The full learning rate, after an optional warm-up."""

from __future__ import annotations

from mtk import Progress, Scheduler
from mtk_schedulers.warm_up import check_warmup, rise, warmup_steps


def constant(step: int, warm: int) -> float:
    """(step + 1) / warm during the first `warm` steps, then 1."""
    return rise(step, warm) if step < warm else 1.0


class Constant(Scheduler):
    """Factor 1 after the warm-up.

    warmup: below 1 a fraction of the run, from 1 on a number of steps. Raises ConfigError for any other value.
    """

    def __init__(self, *, warmup: float = 0.0) -> None:
        self.warmup = check_warmup(warmup)

    def factor(self, progress: Progress) -> float:
        return constant(progress.step, warmup_steps(self.warmup, progress.total))
