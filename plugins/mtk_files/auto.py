"""A task on rows of your own whose kind is guessed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from mtk import ConfigError, DataError, TaskContext
from mtk_files.file_task import FileTask
from mtk_files.kinds import KINDS, NumberTask, RankingTask
from mtk_files.labels import find_names, guess, parts_of
from mtk_files.rows import Paths, labels_of


def auto(
    context: TaskContext,
    *,
    data: Paths | None = None,
    hub: str | None = None,
    text: str = "text",
    pair: str | None = None,
    label: str | None = None,
    labels: list[str] | None = None,
    range: list[float] | None = None,
    class_weights: Literal["balanced"] | dict[str, float] | None = None,
    threshold: float | None = None,
    separator: str | None = None,
    metric: str | None = None,
    split: dict[str, Any] | None = None,
    max_rows: int | None = None,
    bad_rows: int = 0,
    id: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    splits: dict[str, str] | None = None,
) -> FileTask:
    """A task on rows of your own whose kind of label is guessed from them: classes, range, multilabel, tags or ranking.

    The other options are those of that kind. Raises ConfigError for one that the guessed kind has not, DataError where
    the labels look like none.
    """
    common: dict[str, Any] = {
        "data": data, "hub": hub, "text": text, "pair": pair, "label": label, "metric": metric, "split": split,
        "max_rows": max_rows, "bad_rows": bad_rows, "id": id, "delimiter": delimiter, "encoding": encoding,
        "config": config, "revision": revision, "splits": splits,
    }  # fmt: skip
    own: dict[str, Any] = {
        "labels": labels, "range": range, "class_weights": class_weights, "threshold": threshold,
        "separator": separator,
    }  # fmt: skip
    own = {key: value for key, value in own.items() if value is not None}
    reader = NumberTask(context, **common) if label or pair is None else RankingTask(context, **common)
    try:
        kind, found, why = _guessed(reader, own)
    except DataError:
        reader.check_read()  # whose rows are wrong rather than their labels
        raise
    stray = next((key for key in own if key not in KINDS[kind].own), None)
    if stray is not None:
        raise ConfigError(f"{stray}: a task of {kind} has no such option ({why}); write kind = ... for another")
    task = KINDS[kind](context, **common, **{**found, **own})
    task.take_rows(reader)
    task.notes.append(why)
    task.guessed = True
    return task


def _guessed(reader: FileTask, own: Mapping[str, Any]) -> tuple[str, Mapping[str, Any], str]:
    """The kind, the options that go with it, and why."""
    rows = [row for part in reader.rows().values() for row in part]
    column = reader.layout.label
    if column is None and "label" not in reader.there:
        return "ranking", {}, "two texts and no label column -> ranking: which texts belong together"
    if column is None:
        raise ConfigError('label: two texts and a column \'label\': write label = "label", or kind = "ranking"')
    if "range" in own:
        return "range", {}, f"label '{column}': a range is given -> range"
    if "separator" in own:
        names = find_names([part for raw in labels_of(rows) for part in parts_of(raw, own["separator"])])[0]
        return "multilabel", {"labels": names}, f"label '{column}': a separator is given -> multilabel"
    if "labels" in own and not any(isinstance(row.raw, list) for row in rows):
        return "classes", {}, f"label '{column}': labels are given -> classes"
    if {"class_weights", "threshold"} & set(own) and not any(isinstance(row.raw, list) for row in rows):
        names = find_names(list(labels_of(rows)))[0]
        return "classes", {"labels": names}, f"label '{column}': {' and '.join(own)} given -> classes"
    found = guess(rows, column)
    return found.kind, found.options, found.why
