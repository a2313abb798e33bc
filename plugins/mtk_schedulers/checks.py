"""What the schedules' options may be, beyond their types."""

from __future__ import annotations

from mtk import ConfigError


def check_floor(floor: float) -> float:
    """`floor` itself; ConfigError unless it is a factor in [0, 1]."""
    if not 0 <= floor <= 1:
        raise ConfigError(f"floor: expected a factor from 0 to 1, found {floor}")
    return float(floor)
