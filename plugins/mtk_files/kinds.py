"""Tasks on rows of your own, a class for each kind of label."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from mtk import (
    Classes,
    ConfigError,
    DataError,
    MultiLabel,
    Number,
    Ordinal,
    Range,
    Ranking,
    Tags,
    Target,
    TaskContext,
)
from mtk_files.file_task import FileTask
from mtk_files.labels import ClassNames, WeightedClasses, as_number, find_names, parts_of, tag_names, with_point
from mtk_files.rows import Row


class NamedLabels(FileTask):
    """A task whose labels have names: those given, else those in the rows."""

    def __init__(self, context: TaskContext, *, labels: list[str] | None = None, **common: Any) -> None:
        super().__init__(context, **common)
        self.labels = self._find_labels() if labels is None else labels
        self.name_of = ClassNames(self.labels)

    def _find_labels(self) -> list[str]:
        names, note = find_names(self._single_labels())
        self.notes.append(f"label '{self.layout.label}': {len(names)} different: {', '.join(names)}{note}")
        return names

    def _single_labels(self) -> list[Any]:
        return self.raws()

    @property
    def found(self) -> Mapping[str, Any]:
        return {"labels": self.labels}


class ClassesTask(NamedLabels):
    """One of several classes a row, of your own files or the Hub. See FileTask for what all kinds have in common.

    labels: the classes in order; default: those in the rows. class_weights: of a row's loss, by class, or `balanced`.
    threshold: of two classes, the second is predicted from this probability on.
    """

    kind = "classes"
    own = ("labels", "class_weights", "threshold")
    stratified = True

    def __init__(
        self,
        context: TaskContext,
        *,
        class_weights: Literal["balanced"] | dict[str, float] | None = None,
        threshold: float | None = None,
        **common: Any,
    ) -> None:
        super().__init__(context, **common)
        self._extra = {"class_weights": class_weights, "threshold": threshold}
        if class_weights is None and threshold is None:
            self.target: Target = Classes(self.labels)
        else:
            self.target = WeightedClasses(self.labels, class_weights, threshold)

    def raw_label(self, raw: Any) -> Any:
        return self.name_of(raw)

    @property
    def found(self) -> Mapping[str, Any]:
        return {**super().found, **{key: value for key, value in self._extra.items() if value is not None}}


class OrdinalTask(NamedLabels):
    """One of several classes in ascending order. labels: the classes, lowest first; needed unless they are numbers."""

    kind = "ordinal"
    own = ("labels",)
    stratified = True

    def __init__(self, context: TaskContext, **common: Any) -> None:
        super().__init__(context, **common)
        self.target = Ordinal(self.labels)

    def _find_labels(self) -> list[str]:
        names = super()._find_labels()
        if not all(math.isfinite(as_number(name)) for name in names):
            raise ConfigError(
                f"labels: expected the classes in ascending order, found none; there are {', '.join(names)}"
            )
        return names

    def raw_label(self, raw: Any) -> Any:
        return self.name_of(raw)


class MultiLabelTask(NamedLabels):
    """Any number of labels a row: names with a separator between them, or a JSON list.

    separator: what stands between labels. labels: their names; default: those in the rows.
    threshold: a label is predicted from this probability on.
    """

    kind = "multilabel"
    own = ("labels", "threshold", "separator")

    def __init__(self, context: TaskContext, *, threshold: float = 0.5, separator: str = "|", **common: Any) -> None:
        self._threshold, self._separator = threshold, separator
        super().__init__(context, **common)
        self.target = MultiLabel(self.labels, threshold=threshold, separator=separator)

    def _single_labels(self) -> list[Any]:
        return [one for raw in self.raws() for one in parts_of(raw, self._separator)]

    def raw_label(self, raw: Any) -> Any:
        return [self.name_of(part) for part in parts_of(raw, self._separator)]

    @property
    def found(self) -> Mapping[str, Any]:
        return {**super().found, "threshold": self._threshold, "separator": self._separator}


class TagsTask(NamedLabels):
    """A tag a word: CoNLL columns, JSON lists of words and tags, spans of characters, or tags between blanks.

    labels: the tags; default: those in the rows. See FileTask for what all kinds have in common.
    """

    kind = "tags"
    own = ("labels",)

    def __init__(self, context: TaskContext, **common: Any) -> None:
        super().__init__(context, **common)
        self.target = Tags(self.labels)

    def _find_labels(self) -> list[str]:
        return tag_names(super()._find_labels())

    def _single_labels(self) -> list[Any]:
        return [tag for raw in self.raws() for tag in self.raw_label(raw, named=False)]

    def raw_label(self, raw: Any, named: bool = True) -> Any:
        tags = raw if isinstance(raw, list) else str(raw).split()
        return [self.name_of(tag) for tag in tags] if named else tags


class RangeTask(FileTask):
    """A number between two bounds. range: [low, high]; default: the lowest and highest in the rows."""

    kind = "range"
    own = ("range",)

    def __init__(self, context: TaskContext, *, range: list[float] | None = None, **common: Any) -> None:
        super().__init__(context, **common)
        if range is None:
            numbers = [number for raw in self.raws() if math.isfinite(number := as_number(raw))]
            if not numbers:
                raise DataError(f"label '{self.layout.label}': expected numbers, found none")
            range = [min(numbers), max(numbers)]
            self.notes.append(f"label '{self.layout.label}': numbers from {range[0]:g} to {range[1]:g}, the range")
        if len(range) != 2:
            raise ConfigError(f"range: expected [low, high], found {range}")
        self.bounds = range
        self.target = Range(*range)

    def raw_label(self, raw: Any) -> Any:
        return with_point(raw)

    @property
    def found(self) -> Mapping[str, Any]:
        return {"range": self.bounds}


class NumberTask(FileTask):
    """A number without bounds."""

    kind = "number"

    def __init__(self, context: TaskContext, **common: Any) -> None:
        super().__init__(context, **common)
        self.target = Number()

    def raw_label(self, raw: Any) -> Any:
        return with_point(raw)


class RankingTask(FileTask):
    """Pairs of texts that belong together. label: a column of 1 (they do) and 0; default: all of them do."""

    kind = "ranking"

    def __init__(self, context: TaskContext, **common: Any) -> None:
        super().__init__(context, **common)
        if not self.paired:
            raise ConfigError("ranking: expected two texts a row, found one; name the second one's column: pair")
        self.target = Ranking()

    def _label_column(self, given: str | None) -> str | None:
        return given

    def rows(self) -> dict[str, list[Row]]:
        rows = super().rows()
        if self.layout.label is None:
            rows = {part: [_labelled(row) for row in some] for part, some in rows.items()}
        return rows

    def raw_label(self, raw: Any) -> Any:
        return raw


def _labelled(row: Row) -> Row:
    return Row(row.place, row.file, row.line, row.id, row.texts, 1, row.group, row.stratum)


KINDS: Mapping[str, type[FileTask]] = {
    task.kind: task for task in (ClassesTask, OrdinalTask, MultiLabelTask, TagsTask, RangeTask, NumberTask, RankingTask)
}
