"""What a parsed label is, for each kind of target that comes with mtk."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from mtk.interfaces import Target
from mtk.targets.classes import Classes
from mtk.targets.multilabel import MultiLabel
from mtk.targets.numbers import Number, Range
from mtk.targets.ordinal import Ordinal
from mtk.targets.ranking import Ranking
from mtk.targets.tags import Tags


def is_label(target: Target, value: Any) -> bool:
    """Whether a parsed label, or what stands for one in a prediction, is of the target; True of other kinds."""
    match target:
        case Classes() | Ordinal():
            return _is_index(value, len(target.names))
        case MultiLabel():
            return (
                isinstance(value, tuple)
                and list(value) == sorted(set(value))
                and all(_is_index(one, target.size) for one in value)
            )
        case Tags():
            return isinstance(value, tuple) and all(_is_index(one, target.size) for one in value)
        case Range():
            return isinstance(value, Real) and target.low <= float(value) <= target.high
        case Number() | Ranking():
            return isinstance(value, Real) and math.isfinite(value)
    return True


def _is_index(value: Any, size: int) -> bool:
    return isinstance(value, Integral) and 0 <= int(value) < size
