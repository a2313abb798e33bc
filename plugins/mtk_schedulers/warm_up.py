"""Linear warm-up, which every schedule that starts at the full rate may begin with."""

from __future__ import annotations

import math

from mtk import ConfigError


def check_warmup(warmup: float) -> float:
    """`warmup` itself; ConfigError unless it is a fraction in [0, 1) or a whole number of steps."""
    if not (math.isfinite(warmup) and warmup >= 0 and (warmup < 1 or float(warmup).is_integer())):
        raise ConfigError(
            f"warmup: expected a fraction of the run from 0 up to, not including, 1, "
            f"or a whole number of steps, found {warmup}"
        )
    return float(warmup)


def warmup_steps(warmup: float, total: int) -> int:
    """The warm-up in steps: a fraction of `total`, rounded, where `warmup` is below 1, else `warmup` itself."""
    return round(warmup * total) if warmup < 1 else int(warmup)


def rise(step: int, warm: int) -> float:
    """(step + 1) / warm, for step < warm: the first step moves already, and the last of the warm-up is at 1."""
    return (step + 1) / warm
