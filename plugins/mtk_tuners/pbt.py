"""Population based training: what does badly goes on from the weights of what does well, under settings near theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mtk import ConfigError, Job, SearchState, TrialRecord, Tuner

FACTORS = (0.8, 1.2)
ENDED = ("finished", "stopped")  # whose weights are given up


def score_at(trial: TrialRecord, barrier: int) -> float:
    """The latest score of the first `barrier` epochs; -inf for one that is not finite or a failure before."""
    if trial.state == "failed" and len(trial.scores) < barrier:
        return -math.inf
    latest = next(reversed(trial.scores[:barrier]), -math.inf)
    return latest if math.isfinite(latest) else -math.inf


def exploits(
    trials: Sequence[TrialRecord], barrier: int, quantile: float
) -> tuple[list[TrialRecord], list[TrialRecord]]:
    """Who is still to take over weights at this barrier, the worst first, and from whom, the best first.

    It comes out the same while the barrier's jobs are given out and trained. Who has taken over has lost the score that
    it was ranked by; it was among the worst, so the count of those, with the others' ranks, tells who is left. Who has
    failed since keeps its rank, and is brought back at the next barrier.
    """
    count = min(math.ceil(len(trials) * quantile - 1e-9), len(trials) // 2)
    rest = sorted(unmoved(trials, barrier), key=lambda trial: (score_at(trial, barrier), -trial.number))
    sound = [trial for trial in reversed(rest) if score_at(trial, barrier) > -math.inf]
    there = [trial for trial in sound if len(trial.scores) >= barrier + (trial.state in ENDED)]
    best = {trial.number for trial in there[:count]}
    worst = rest[: max(count - (len(trials) - len(rest)), len(rest) - len(sound))]
    takers = [trial for trial in worst if trial.number not in best]
    waiting = [trial for trial in there if len(trial.scores) == barrier and trial.state != "failed"]
    sources = [trial for trial in waiting if trial.number not in {taker.number for taker in takers}][:count]
    return takers if sources else [], sources


def unmoved(trials: Sequence[TrialRecord], barrier: int) -> list[TrialRecord]:
    """The trials that have taken over nothing at this barrier."""
    return [trial for trial in trials if not trial.stages or trial.stages[-1].after != barrier]


class PBT(Tuner):
    """All trials train side by side. Every so often the worst take over the weights of the best and go on under
    settings near theirs: what is found is a schedule of settings.

    The population is as many trials as the search may begin. At a barrier all of them have `every` more epochs, and are
    ranked by their latest score, equal ones by number. The worst `quantile`, rounded up, and at most half, each take
    over one of the best `quantile` at random. So does whatever failed before or has a score that is not finite; where
    all are such, nobody does. A trial that ended early is ranked by its last score and has no weights to take over. Of
    the settings, those that may change between epochs are drawn anew with probability `resample`, else multiplied by
    0.8 or 1.2 (a choice: moved by one place); the others come with the weights. The last epoch is no barrier.

    every: epochs between two barriers, fewer than a trial has. quantile: above 0, at most 0.5. resample: 0 to 1.
    Source: Jaderberg et al., Population Based Training of Neural Networks, arXiv 1711.09846, truncation selection.
    There, every trial compares itself when it is ready; here all wait for each other, so that a trial has the same
    rivals with few workers as with many. Raises ConfigError for options out of range, and for a space of which nothing
    may change.
    """

    def __init__(self, *, every: int = 1, quantile: float = 0.25, resample: float = 0.25) -> None:
        if every < 1:
            raise ConfigError(f"every: expected at least 1 epoch, found {every}")
        if not 0 < quantile <= 0.5:
            raise ConfigError(f"quantile: expected a share above 0 and at most 0.5, found {quantile:g}")
        if not 0 <= resample <= 1:
            raise ConfigError(f"resample: expected a probability from 0 to 1, found {resample:g}")
        self.every, self.quantile, self.resample = every, quantile, resample

    def next(self, state: SearchState) -> Job | None:
        self._check(state)
        trials = state.trials
        if len(trials) < state.limit:
            return Job(self.every, state.sample(len(trials)))
        alive = [trial for trial in trials if trial.state in ("paused", "running")]
        barrier = min((len(trial.scores) for trial in alive), default=0) // self.every * self.every
        further = min(barrier + self.every, state.epochs)
        if 0 < barrier < state.epochs:
            takers, sources = exploits(trials, barrier, self.quantile)
            if takers and any(trial.state == "running" for trial in unmoved(trials, barrier)):
                return None  # one has its score and is being saved
            if takers:
                return self._exploit(state, takers[0].number, sources, further)
        waiting = (trial.number for trial in alive if trial.state == "paused" and len(trial.scores) < further)
        return next((Job(further, trial=number) for number in waiting), None)

    def _exploit(self, state: SearchState, number: int, sources: Sequence[TrialRecord], epochs: int) -> Job:
        """A function of seed, trial, barrier and sources."""
        import numpy as np

        generator = np.random.default_rng([state.seed, number, epochs])
        source = sources[int(generator.integers(len(sources)))]
        parameters = {key: source.parameters[key] for key in state.space}
        for key in filter(state.changeable.__contains__, parameters):
            domain, factor = state.space[key], FACTORS[int(generator.integers(2))]
            again = generator.random() < self.resample
            parameters[key] = domain.sample(generator) if again else domain.perturb(parameters[key], factor, generator)
        return Job(epochs, parameters, trial=number, source=source.number)

    def _check(self, state: SearchState) -> None:
        if self.every >= state.epochs:
            raise ConfigError(
                f"tuner 'pbt': every: expected fewer than the {state.epochs} epochs of a trial, found {self.every}; "
                "give more --epochs"
            )
        if not state.changeable:
            raise ConfigError(
                f"tuner 'pbt': expected a key that may change while a trial trains, such as optim.lr, found "
                f"{', '.join(state.space) or 'none'}; use another tuner"
            )
