"""Linear warm-up, then linear decay."""

from __future__ import annotations

from mtk import Progress, Scheduler
from mtk_schedulers.checks import check_floor
from mtk_schedulers.warm_up import check_warmup, rise, warmup_steps


def linear(step: int, total: int, warm: int, floor: float) -> float:
    """(step + 1) / warm during the first `warm` steps, then a line from 1 at `warm` to `floor` at `total`."""
    if step < warm:
        return rise(step, warm)
    left = max(0, total - step) / max(1, total - warm)
    return floor + (1.0 - floor) * left


class Linear(Scheduler):
    """Warm-up to 1, then decay to `floor`, which the step after the last would reach: no step of a run is wasted.

    warmup: below 1 a fraction of the run, from 1 on a number of steps (a run that is shorter never reaches 1).
    floor: a factor in [0, 1]. Raises ConfigError for any other value.
    """

    def __init__(self, *, warmup: float = 0.1, floor: float = 0.0) -> None:
        self.warmup = check_warmup(warmup)
        self.floor = check_floor(floor)

    def factor(self, progress: Progress) -> float:
        return linear(progress.step, progress.total, warmup_steps(self.warmup, progress.total), self.floor)
