"""Linear warm-up, then half a cosine down."""

from __future__ import annotations

import math

from mtk import Progress, Scheduler
from mtk_schedulers.checks import check_floor
from mtk_schedulers.warm_up import check_warmup, rise, warmup_steps


def cosine(step: int, total: int, warm: int, floor: float) -> float:
    """(step + 1) / warm during the first `warm` steps, then floor + (1 - floor) (1 + cos(pi x)) / 2, where x goes
    from 0 at `warm` to 1 at `total` and stays there.

    Loshchilov, Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, arXiv 1608.03983, equation 5, with
    eta_max = 1, eta_min = floor, T_cur = step - warm and T_i = total - warm: one period and no restart.
    """
    if step < warm:
        return rise(step, warm)
    done = min(1.0, max(0, step - warm) / max(1, total - warm))
    return floor + (1.0 - floor) * (1.0 + math.cos(math.pi * done)) / 2


class Cosine(Scheduler):
    """Warm-up to 1, then half a cosine down to `floor` (arXiv 1608.03983, equation 5, without its restarts).

    warmup: below 1 a fraction of the run, from 1 on a number of steps (a run that is shorter never reaches 1). The
        paper has none; the default is that of `linear`, so that the two differ in their decay alone.
    floor: a factor in [0, 1], which the step after the last would reach. Raises ConfigError for any other value.
    """

    def __init__(self, *, warmup: float = 0.1, floor: float = 0.0) -> None:
        self.warmup = check_warmup(warmup)
        self.floor = check_floor(floor)

    def factor(self, progress: Progress) -> float:
        return cosine(progress.step, progress.total, warmup_steps(self.warmup, progress.total), self.floor)
