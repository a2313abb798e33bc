"""What mtk raises when the user, a file or a plugin is at fault: the command line prints one line and exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class MTKError(Exception):
    """A fault with one clear line: what was expected, what was found, where, and what to do next."""


class ConfigError(MTKError):
    """An option, a configuration key or a combination of them is wrong."""


class DataError(MTKError):
    """A data file, a row or a label is wrong; the message names file and line."""


class NoRowsError(DataError):
    """A task has no rows of a split, or none with a label: other tasks may have some."""


class PluginError(MTKError):
    """A plugin is unknown, broken, or was given options it does not take."""


class CheckpointError(MTKError):
    """A checkpoint or run folder cannot be read, written or resumed."""


class NonFiniteError(MTKError):
    """A gradient or loss of `tasks` (empty: of nobody knows whom) is not finite."""

    def __init__(self, tasks: Sequence[str], step: int, what: str = "gradient") -> None:
        whose = f"the {what} of task {' and '.join(map(repr, tasks))}" if tasks else f"the {what}"
        super().__init__(
            f"step {step + 1}: {whose} is not finite; try a lower learning rate or fp32 precision, and look at the "
            "task's labels"
        )
        self.tasks, self.what = tuple(tasks), what


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'pcgrad'?"` for the nearest known name, else the list of known names."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(names) if names else 'none'}"
