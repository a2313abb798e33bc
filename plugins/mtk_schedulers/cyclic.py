"""Cyclical learning rates: up and down between two bounds, in straight lines."""

from __future__ import annotations

import math

from mtk import ConfigError, Progress, Scheduler


def triangular(step: int, stepsize: float, low: float, high: float) -> float:
    """low + (high - low) (1 - x), where x = |step / stepsize - 2 cycle + 1| and cycle = floor(1 + step / (2 stepsize)).

    It starts at `low` and takes `stepsize` steps, above 0, to `high` and as many back. Smith, Cyclical Learning Rates
    for Training Neural Networks, arXiv 1506.01186, section 3.1: the policy "triangular".
    """
    cycle = math.floor(1 + step / (2 * stepsize))
    x = abs(step / stepsize - 2 * cycle + 1)
    return low + (high - low) * max(0.0, 1.0 - x)


class Cyclic(Scheduler):
    """Triangular cycles between two bounds (arXiv 1506.01186, section 3.1, the policy "triangular").

    low, high: the bounds, as factors on --lr, 0 < low <= high. The paper takes the lower for a third or a quarter of
        the upper one: the default is the quarter.
    cycles: how many the run holds; it ends with the last one, back at `low`. The paper calls for three at least, better
        four. A run too short for two steps a cycle has fewer of them.
    stepsize: half a cycle in steps, as the paper has it, in place of `cycles`; None for `cycles`.
    It starts at `low` and so has no warm-up of its own. Raises ConfigError for any other value.
    """

    def __init__(self, *, low: float = 0.25, high: float = 1.0, cycles: int = 4, stepsize: int | None = None) -> None:
        if not (math.isfinite(high) and high > 0):
            raise ConfigError(f"high: expected a finite factor above 0, found {high}")
        if not 0 < low <= high:
            raise ConfigError(f"low: expected a factor above 0 and at most high, {high}, found {low}")
        if cycles < 1:
            raise ConfigError(f"cycles: expected at least 1, found {cycles}")
        if stepsize is not None and stepsize < 1:
            raise ConfigError(f"stepsize: expected at least 1 step, found {stepsize}")
        self.low, self.high, self.cycles, self.stepsize = float(low), float(high), cycles, stepsize

    def factor(self, progress: Progress) -> float:
        cycles = max(1, min(self.cycles, progress.total // 2))
        stepsize = self.stepsize or max(1, progress.total) / (2 * cycles)
        return triangular(progress.step, stepsize, self.low, self.high)
