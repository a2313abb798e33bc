"""Successive halving by stopping, as Ray Tune does it."""

from __future__ import annotations

from mtk import SearchState, TrialRecord
from mtk_tuners.asha import check, rungs
from mtk_tuners.random import Random


class RayASHA(Random):
    """Draws as `random` does, and stops a trial that has `first`, eta * `first`, ... epochs and a score below the best
    1/eta of those that were there before it.

    The rule of Ray Tune's ASHAScheduler with one bracket and its defaults, in process: the bar is a percentile of the
    scores that the others had after as many epochs, without the newcomer's. So the first trial to arrive always goes
    on, and one that was stopped never does: `asha` pauses and promotes instead. A score of -inf, which is what a search
    makes of NaN, fails every finite bar.

    first: Ray's grace_period, in epochs. eta: its reduction_factor, at least 2.
    Source: ray.tune.schedulers.AsyncHyperBandScheduler, after Li et al., arXiv 1810.05934. Raises ConfigError for
    options out of range.
    """

    def __init__(self, *, first: int = 1, eta: int = 4) -> None:
        check(first, eta)
        self.first, self.eta = first, eta

    def keep(self, state: SearchState, trial: TrialRecord) -> bool:
        import numpy as np

        epoch = len(trial.scores)
        if epoch not in rungs(self.first, self.eta, state.epochs)[:-1]:
            return True
        others = [
            one.scores[epoch - 1] for one in state.trials if one.number != trial.number and len(one.scores) >= epoch
        ]
        if not others:
            return True
        with np.errstate(invalid="ignore"):  # a percentile between -inf and a number
            bar = np.percentile(others, (1 - 1 / self.eta) * 100)
        return not trial.scores[-1] < bar
