"""Linear warm-up, then decay with the inverse square root of the step."""

from __future__ import annotations

import math

from mtk import Progress, Scheduler
from mtk_schedulers.warm_up import check_warmup, rise, warmup_steps


def inverse_sqrt(step: int, warm: int) -> float:
    """min(s / warm, sqrt(warm / s)) with s = step + 1; a `warm` of 0 counts as 1.

    Vaswani et al., Attention Is All You Need, arXiv 1706.03762, equation 3, which counts steps from 1, divided by its
    largest value (d_model * warm)^-0.5: the factor is 1 at the last step of the warm-up, s = warm.
    """
    return rise(step, warm) if step < warm else math.sqrt(max(1, warm) / (step + 1))


class InverseSqrt(Scheduler):
    """Warm-up to 1, then sqrt(warm-up steps / step) (arXiv 1706.03762, equation 3): it never reaches 0.

    warmup: below 1 a fraction of the run, from 1 on a number of steps. It sets the pace of the decay as well: four
        times the warm-up halves the rate. The paper has 4,000 steps of 100,000; the default is that of `linear`.
    Deviation: --lr is the highest rate, in place of the paper's (d_model * warm-up steps)^-0.5.
    Raises ConfigError for any other warm-up.
    """

    def __init__(self, *, warmup: float = 0.1) -> None:
        self.warmup = check_warmup(warmup)

    def factor(self, progress: Progress) -> float:
        return inverse_sqrt(progress.step, warmup_steps(self.warmup, progress.total))
