"""Shares of an epoch that are powers of the tasks' sizes, and whole rows from shares."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

from mtk import ConfigError
from mtk_mixers.capped import ROWS


def size_shares(sizes: Mapping[str, int], exponent: float) -> dict[str, float]:
    """Each task's share of an epoch, size^exponent / sum of size^exponent: 1 is in proportion, 0 equal shares.

    A task without rows has a share of 0. The shares sum to 1, or to 0 where no task has rows.
    """
    largest = max(sizes.values(), default=0)
    least = sys.float_info.min  # a task that has rows keeps a share, however small
    powers = {task: max(least, (size / largest) ** exponent) if size else 0.0 for task, size in sizes.items()}
    whole = sum(powers.values()) or 1.0
    return {task: power / whole for task, power in powers.items()}


def whole_rows(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """`total` times each share in whole rows that sum to `total`, by the largest remainder: each is less than one row
    off, equal remainders go to the earlier task. Tasks of a share above 0 that would then have no row get one, from
    whichever task has most, so that none is silently left untrained. `total` is no less than the number of such tasks.
    """
    quotas = {task: share * total for task, share in shares.items()}
    rows = {task: math.floor(quota) for task, quota in quotas.items()}
    some = [task for task, share in shares.items() if share > 0]
    for task in sorted(some, key=lambda task: rows[task] - quotas[task])[: total - sum(rows.values())]:
        rows[task] += 1
    for task in some:
        if rows[task] == 0:
            rows[max(rows, key=lambda other: rows[other])] -= 1
            rows[task] = 1
    return rows


def check_total(total: int | None) -> int | None:
    """`total` itself; ConfigError unless it is None or at least 1."""
    if total is not None and total < 1:
        raise ConfigError(f"total: expected at least 1 row an epoch, found {total}")
    return total


def mixed_rows(sizes: Mapping[str, int], exponent: float, total: int | None) -> dict[str, int]:
    """`total` rows in shares of size^exponent; None stands for the sum of min(size, 8000), as many as `capped` gives.

    Raises ConfigError where `total` is too few for every task that has rows.
    """
    filled = sum(size > 0 for size in sizes.values())
    if total is None:
        total = sum(min(size, ROWS) for size in sizes.values())
    elif total < filled:
        raise ConfigError(
            f"the mixer's total: expected at least {filled} rows an epoch, one for each task, found {total}"
        )
    return whole_rows(size_shares(sizes, exponent), total)
