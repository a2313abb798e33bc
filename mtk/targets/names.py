"""Labels by name: what a file may call them, and what to say where it calls them otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mtk.errors import ConfigError


class Names:
    """The names of C labels, in the order of their indices. Raises ConfigError unless they are `least` different ones.

    kind: of target, for messages.
    """

    def __init__(self, kind: str, names: Sequence[str], least: int = 2) -> None:
        if isinstance(names, str) or len(names) < least or len(set(names)) != len(names):
            wanted = "one name, and none twice" if least == 1 else "two different names"
            found = f"'{names}'" if isinstance(names, str) else list(names)
            raise ConfigError(f"{kind}: expected at least {wanted}, found {found}")
        self.all = tuple(str(name) for name in names)
        self._index = {name.lower(): i for i, name in enumerate(self.all)}

    def parse(self, raw: Any) -> int:
        """The index of a name, whatever its case, or of an index (`3`, `3.0`). Raises ValueError."""
        text = str(raw).strip()
        if text.lower() in self._index:
            return self._index[text.lower()]
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if number.is_integer() and 0 <= number < len(self.all):
            return int(number)
        shown = ", ".join(f"{i} ({name})" for i, name in enumerate(self.all))
        raise ValueError(f"expected one of {shown}, found '{text}'")


def macro_f1(labels: Sequence[int], guesses: Sequence[int]) -> float:
    """The mean F1 of the classes that occur on either side; a guess below 0 is none, and wrong."""
    from sklearn.metrics import f1_score

    there = sorted(index for index in set(labels) | set(guesses) if index >= 0)
    return float(f1_score(labels, guesses, average="macro", labels=there, zero_division=0))
