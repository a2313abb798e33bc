"""A table of scores over several runs: what a sweep prints, and what reports are written from. Imports no torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference of two configurations, paired over seeds: its mean and 95% confidence interval.

    pairs: how many seeds both have; with fewer than two there is no interval, and `low` and `high` are None.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int

    @property
    def exceeds_noise(self) -> bool | None:
        """Whether 0 lies outside the interval; None where there is no interval."""
        return None if self.low is None or self.high is None else self.low > 0 or self.high < 0


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """ours - theirs over the seeds that both have, with Student's 95% interval; None where they share no seed."""
    values = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Difference(mean, None, None, len(values))
    from scipy.stats import t

    reach = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return Difference(mean, mean - reach, mean + reach, len(values))


@dataclass(frozen=True, slots=True)
class Curve:
    """One run's scores by epoch: column -> a score an epoch. train: on some training rows without dropout, or empty."""

    seed: int
    dev: Mapping[str, Sequence[float]]
    train: Mapping[str, Sequence[float]] = field(default_factory=dict)
    best_epoch: int | None = None  # counted from 1


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One configuration: column -> its score for each seed that has ended.

    published: somebody else's figures to set beside ours. best_epochs: of each seed, counted from 1. status: why a
    row has no or not all scores (`not run`, `2 of 3 seeds`, `failed: ...`). differences: column -> against the row
    that `against` names.
    """

    name: str
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)
    best_epochs: Sequence[int] = ()
    status: str = ""
    against: str = ""
    differences: Mapping[str, Difference] = field(default_factory=dict)
    curves: Sequence[Curve] = ()
    seconds: float = 0.0

    def mean(self, column: str) -> float | None:
        """The mean over seeds; None where there is no score."""
        values = self.scores.get(column, ())
        return statistics.fmean(values) if values else None

    def spread(self, column: str) -> float | None:
        """The sample standard deviation over seeds; None below two."""
        values = self.scores.get(column, ())
        return statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Rows by columns (tasks' primary scores, then their mean), with a caption of one line a fact."""

    title: str
    columns: Sequence[str]
    rows: Sequence[ScoreRow]
    caption: Sequence[str] = ()
    published: str = ""  # whose figures the rows' `published` are; empty where there are none
