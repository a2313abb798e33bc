"""Labels as files write them: their names, and what kind of label they look like."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtk import Classes, ConfigError, DataError, Prediction, Targets, did_you_mean
from mtk_files.rows import Row, cut

MOST_NUMBERS = 20  # different whole numbers that are still taken for classes
MOST_NAMES = 200  # different texts that are
SHOWN = 8
SEPARATORS = ("|", ";", ",")


def name_of(raw: Any) -> str:
    """A raw label as a class's name: 1.0 is "1", JSON's true is "true"."""
    if isinstance(raw, bool):
        return str(raw).lower()
    number = as_number(raw)
    whole = number.is_integer() and not isinstance(raw, str)
    return str(int(number)) if whole else str(raw).strip()


def as_number(raw: Any) -> float:
    """NaN where it is none; 2,5 counts as 2.5."""
    if isinstance(raw, bool | list | dict):
        return math.nan
    text = str(raw).strip()
    if text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    try:
        return float(text)
    except ValueError:
        return math.nan


def with_point(raw: Any) -> Any:
    """A number as the file has it, with a decimal point; anything else as it is."""
    return str(raw).strip().replace(",", ".") if math.isfinite(as_number(raw)) else raw


def parts_of(raw: Any, separator: str) -> list[Any]:
    """The labels of a row that may have several: a list, or a text with a separator between them."""
    parts = raw if isinstance(raw, list) else str(raw).split(separator)
    return [part for part in parts if str(part).strip()]


class ClassNames:
    """The names of classes in order, and how a file's spellings become them.

    `4`, `4.0` and `4,0` are the same where all names are numbers. What is no name is taken for an index only where no
    name is a number. Raises ConfigError for names that differ in case alone.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.all = [str(name).strip() for name in names]
        numbers = [as_number(name) for name in self.all]
        self.numeric = all(map(math.isfinite, numbers))
        self.strict = any(map(math.isfinite, numbers))
        twice = [name for name, count in Counter(name.lower() for name in self.all).items() if count > 1]
        if twice:
            raise ConfigError(f"labels: expected names that differ in more than case, found '{twice[0]}' twice")

    def __call__(self, raw: Any) -> str:
        """The name of a raw label. Raises ValueError where there is none."""
        name = name_of(raw)
        if self.numeric and math.isfinite(number := as_number(raw)):
            name = next((one for one in self.all if as_number(one) == number), name)
        if name.lower() in {one.lower() for one in self.all}:
            return name
        if not self.strict and name.isdecimal() and int(name) < len(self.all):
            return self.all[int(name)]
        raise ValueError(f"expected one of {some(self.all)}, found '{name}'")


def find_names(raws: Sequence[Any]) -> tuple[list[str], str]:
    """The names among raw labels, numbers by size and texts by alphabet, and a note on spellings that were joined."""
    spellings: dict[str, Counter[str]] = {}
    numeric = all(math.isfinite(as_number(raw)) for raw in raws)
    for raw in raws:
        name = f"{as_number(raw):g}" if numeric else name_of(raw)
        spellings.setdefault(name.lower(), Counter())[name] += 1
    names = [count.most_common(1)[0][0] for count in spellings.values()]
    joined = [f"'{other}'" for count in spellings.values() for other, _ in count.most_common()[1:]]
    note = f"; {some(joined)} differ from them in case alone and count as the same" if joined else ""
    return sorted(names, key=as_number if numeric else str.lower), note


def tag_names(names: Sequence[str]) -> list[str]:
    """Names of tags with those that go with them: I-TYPE for every B-TYPE, and O."""
    inside = [f"I-{name[2:]}" for name in names if name.startswith("B-")]
    return [*names, *(name for name in (*inside, *["O"] * bool(inside)) if name not in names)]


@dataclass(frozen=True, slots=True)
class Guess:
    """A kind of label, the options that go with it, and why, in a line."""

    kind: str
    options: Mapping[str, Any]
    why: str


def guess(rows: Sequence[Row], column: str) -> Guess:
    """The kind of label that a column holds. Raises DataError where it looks like no label at all."""
    where = f"label '{column}'"
    labelled = [row for row in rows if row.raw is not None]
    raws = [row.raw for row in labelled]
    if not raws:
        raise DataError(f"{where}: expected labels, found none in {len(rows):,} rows; is it the right column?")
    if all(isinstance(raw, list) for raw in raws):
        tagged = all(len(row.raw) == len(row.texts[0].split()) for row in labelled)
        return _guess_of_lists(raws, tagged, where)
    names, note = find_names(raws)
    numbers = [as_number(raw) for raw in raws]
    many = f"{len(names):,} different"
    if all(map(math.isfinite, numbers)):
        low, high = min(numbers), max(numbers)
        whole = all(number.is_integer() for number in numbers)
        if len(names) < 2:
            raise DataError(f"{where}: expected at least two different labels, found {cut(names[0])} alone")
        if whole and len(names) <= MOST_NUMBERS:
            why = f'{many} whole numbers, {low:g} to {high:g} -> classes; for a number write kind = "range"'
            return Guess("classes", {"labels": names}, f"{where}: {why}")
        why = f'{many} numbers, {low:g} to {high:g} -> range; for numbers without bounds write kind = "number"'
        return Guess("range", {"range": [low, high]}, f"{where}: {why}")
    if len(names) < 2:
        raise DataError(f"{where}: expected at least two different labels, found '{cut(names[0])}' alone")
    if len(names) > MOST_NAMES or (len(names) > SHOWN and len(names) > len(raws) / 2):
        raise DataError(
            f"{where}: {many} texts in {len(raws):,} rows look like no label; name another column, or write kind and "
            "labels"
        )
    odd = [names for names in (sum(not math.isfinite(n) for n in numbers),) if 0 < names < len(numbers) / 2]
    if odd:
        first = next(raw for raw, number in zip(raws, numbers, strict=True) if not math.isfinite(number))
        note += f"; most are numbers, but {odd[0]:,} are not ('{cut(str(first))}'): are those bad rows?"
    several = next((s for s in SEPARATORS if sum(s in str(raw) for raw in raws) > len(raws) / 10), None)
    if several:
        note += (
            f'; some hold \'{several}\': for several labels a row write kind = "multilabel", separator = "{several}"'
        )
    return Guess("classes", {"labels": names}, f"{where}: {many} texts -> classes {some(names)}{note}")


def _guess_of_lists(raws: Sequence[Any], tagged: bool, where: str) -> Guess:
    names = find_names([name for raw in raws for name in raw])[0]
    names = tag_names(names) if tagged else names
    if not names:
        raise DataError(f"{where}: expected labels, found empty lists alone")
    kind, other = ("tags", "multilabel") if tagged else ("multilabel", "tags")
    why = f'lists of {len(names):,} different texts -> {kind} {some(names)}; else write kind = "{other}"'
    return Guess(kind, {"labels": names}, f"{where}: {why}")


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(map(cut, names[:SHOWN])) + more


class WeightedClasses(nn.Module, Classes):
    """Classes whose losses count differently, and of which the second of two may have a threshold of its own.

    weights: of a row's loss by its class; `balanced` gives each class of the training rows the same total,
        N / (C * N_c) a row, whose mean over these rows is 1. They are saved with the head.
    threshold: of two classes, the second is predicted from this probability on. Raises ConfigError.
    """

    weights: Tensor

    def __init__(
        self, names: Sequence[str], weights: Literal["balanced"] | Mapping[str, float] | None, threshold: float | None
    ) -> None:
        nn.Module.__init__(self)
        Classes.__init__(self, names)
        self.balanced, self.threshold = weights == "balanced", threshold
        given = weights if isinstance(weights, Mapping) else {}
        for name, weight in given.items():
            if name not in self.names:
                raise ConfigError(f"class_weights: no class '{name}'{did_you_mean(name, self.names)}")
            if not (math.isfinite(weight) and weight >= 0):
                raise ConfigError(f"class_weights: {name}: expected a weight from 0 on, found {weight}")
        self.register_buffer("weights", torch.tensor([float(given.get(name, 1.0)) for name in self.names]))
        if threshold is not None and (len(self.names) != 2 or not 0 < threshold < 1):
            raise ConfigError(
                f"threshold: expected a probability between 0 and 1, and two classes; found {threshold} and "
                f"{len(self.names)} classes ({some(self.names)})"
            )

    def fit(self, labels: Sequence[Any]) -> None:
        if self.balanced and labels:
            counts = torch.bincount(torch.tensor(labels), minlength=self.size)
            self.weights.copy_(len(labels) / (self.size * counts.clamp(min=1)))

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        each = F.cross_entropy(outputs.float(), targets.labels, reduction="none")  # [B, C] -> [B]
        return (each * self.weights[targets.labels] * targets.mask).sum()

    def predict(self, outputs: Tensor, targets: Targets) -> list[Prediction]:
        found = super().predict(outputs, targets)
        if self.threshold is None:
            return found
        return [self._decided(p.probabilities or {}, self.threshold) for p in found]

    def _decided(self, probabilities: Mapping[str, float], threshold: float) -> Prediction:
        index = int(probabilities[self.names[1]] >= threshold)
        name = self.names[index]
        return Prediction(index, name, probabilities[name], probabilities)
