"""Every combination of the space's values."""

from __future__ import annotations

from mtk import ConfigError, Job, SearchState, Tuner


class Grid(Tuner):
    """Every combination of the space's `choice`s and `grid`s, in order, each for all its epochs.

    Raises ConfigError for a space with a range, and for more combinations than the search may begin.
    """

    def next(self, state: SearchState) -> Job | None:
        number, all_of_them = len(state.trials), state.combinations()
        if len(all_of_them) > state.limit:
            raise ConfigError(
                f"tuner 'grid': the space has {len(all_of_them)} combinations, but the search may begin {state.limit} "
                f"trials; give --trials {len(all_of_them)}, or fewer values"
            )
        return Job(state.epochs, all_of_them[number]) if number < len(all_of_them) else None
