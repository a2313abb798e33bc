"""What labels can be: a class, several, one of ordered ones, a number, a tag a word, or texts that belong together."""

from __future__ import annotations

from mtk.targets.classes import Classes
from mtk.targets.multilabel import MultiLabel
from mtk.targets.numbers import Number, Range
from mtk.targets.ordinal import Ordinal
from mtk.targets.ranking import Ranking
from mtk.targets.tags import Tags

__all__ = ["Classes", "MultiLabel", "Number", "Ordinal", "Range", "Ranking", "Tags"]
