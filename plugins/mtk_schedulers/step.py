"""Step decay: the learning rate is cut by the same factor at even distances."""

from __future__ import annotations

import math

from mtk import ConfigError, Progress, Scheduler
from mtk_schedulers.checks import check_floor
from mtk_schedulers.warm_up import check_warmup, rise, warmup_steps

_ROUNDING = 1e-9  # 3 / (0.1 * 30) is just below 1


def step_decay(step: int, warm: int, gamma: float, every: float, floor: float) -> float:
    """(step + 1) / warm during the first `warm` steps, then max(floor, gamma^k) with k = floor((step - warm) / every):
    the cuts so far. `every` is in steps, above 0, and need not be whole."""
    if step < warm:
        return rise(step, warm)
    return max(floor, gamma ** math.floor((step - warm) / every + _ROUNDING))


class Step(Scheduler):
    """Warm-up to 1, then times `gamma` after each stretch of `every`, which counts from the end of the warm-up.

    gamma: what a cut leaves of the rate, in (0, 1].
    every: below 1 a fraction of the steps after the warm-up (0.25: four levels, as long as each other) and no less
        than a step, from 1 on a number of steps.
    warmup: below 1 a fraction of the run, from 1 on a number of steps (a run that is shorter never reaches 1).
    floor: a factor in [0, 1] below which it does not fall.
    The CS 224N report that mtk began from compares a step decay and prints none of its settings: the defaults, four
    levels that halve, are ours. Raises ConfigError for any other value.
    """

    def __init__(self, *, gamma: float = 0.5, every: float = 0.25, warmup: float = 0.0, floor: float = 0.0) -> None:
        if not 0 < gamma <= 1:
            raise ConfigError(f"gamma: expected a factor above 0 and at most 1, found {gamma}")
        if not (math.isfinite(every) and every > 0 and (every < 1 or float(every).is_integer())):
            raise ConfigError(
                f"every: expected a fraction of the steps after the warm-up, between 0 and 1, "
                f"or a whole number of steps, found {every}"
            )
        self.gamma, self.every = float(gamma), float(every)
        self.warmup = check_warmup(warmup)
        self.floor = check_floor(floor)

    def factor(self, progress: Progress) -> float:
        warm = warmup_steps(self.warmup, progress.total)
        every = max(1.0, self.every * (progress.total - warm)) if self.every < 1 else self.every
        return step_decay(progress.step, warm, self.gamma, every, self.floor)
