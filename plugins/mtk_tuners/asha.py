"""Successive halving, asynchronous, with trials that wait for their promotion."""

from __future__ import annotations

import math
from itertools import pairwise

from mtk import ConfigError, Job, SearchState, TrialRecord, Tuner


def check(first: int, eta: int) -> None:
    """Raises ConfigError for options out of range."""
    if first < 1:
        raise ConfigError(f"first: expected at least 1 epoch, found {first}")
    if eta < 2:
        raise ConfigError(f"eta: expected at least 2, found {eta}")


def rungs(first: int, eta: int, epochs: int) -> list[int]:
    """The epochs at which trials are compared: first * eta^k below `epochs`, then `epochs` itself."""
    found = []
    while first < epochs:
        found.append(first)
        first *= eta
    return [*found, epochs]


def promotable(trials: list[TrialRecord], rung: int, eta: int) -> TrialRecord | None:
    """The best trial that waits at this rung among the top 1/eta of all that have reached it (their Algorithm 2)."""
    reached = [trial for trial in trials if len(trial.scores) >= rung]
    ranked = sorted(reached, key=lambda trial: (-max(trial.scores[:rung]), trial.number))
    top = [trial for trial in ranked[: len(ranked) // eta] if trial.best > -math.inf]
    return next((trial for trial in top if len(trial.scores) == rung and trial.state == "paused"), None)


def furthest(state: SearchState, left: int) -> TrialRecord | None:
    """The waiting trial that `left` epochs serve best: one that they finish, the furthest, the best."""
    waiting = [trial for trial in state.trials if trial.state == "paused" and trial.best > -math.inf]
    return max(
        waiting,
        key=lambda trial: (state.epochs - len(trial.scores) <= left, len(trial.scores), trial.best, -trial.number),
        default=None,
    )


class ASHA(Tuner):
    """Trials train for `first` epochs and wait; whenever one is among the best 1/eta of those that got as far, it goes
    on from its checkpoint to eta times as many, and so on to the end. Where none is, a new trial begins.

    Unlike an implementation that only stops (Ray's), no trial is trained further before others have shown that it
    deserves it. When no more trials may begin, the best that waits goes on as long as there is one to promote. Under a
    budget of epochs, what begins shortly before its end comes to nothing: where less than a whole trial's epochs are
    left, trials that wait get them, first those that can be finished, of these the furthest, of these the best. (This
    is ours; the paper has no such budget.)

    first: epochs of a new trial. eta: the halving rate, at least 2. Source: Li et al., A System for Massively Parallel
    Hyperparameter Tuning, MLSys 2020, arXiv 1810.05934, Algorithm 2. Raises ConfigError for options out of range.
    """

    def __init__(self, *, first: int = 1, eta: int = 3) -> None:
        check(first, eta)
        self.first, self.eta = first, eta

    def next(self, state: SearchState) -> Job | None:
        if state.left == 0:
            return None
        if state.left is not None and state.left < state.epochs and (found := furthest(state, state.left)):
            return Job(min(state.epochs, len(found.scores) + state.left), trial=found.number)
        steps, trials = rungs(self.first, self.eta, state.epochs), list(state.trials)
        for rung, further in reversed(list(pairwise(steps))):
            if found := promotable(trials, rung, self.eta):
                return Job(further, trial=found.number)
        if len(trials) < state.limit:
            return Job(steps[0], state.sample(len(trials)))
        return None
