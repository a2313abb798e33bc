"""Independent draws from the space."""

from __future__ import annotations

from mtk import Job, SearchState, Tuner


class Random(Tuner):
    """Every trial is a draw of its own and has all its epochs (Bergstra and Bengio, JMLR 2012)."""

    def next(self, state: SearchState) -> Job | None:
        number = len(state.trials)
        return Job(state.epochs, state.sample(number)) if number < state.limit else None
