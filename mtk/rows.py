"""Rows as a user hands them over: texts, pairs, mappings by column or Examples; and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mtk import plugins
from mtk.errors import DataError, did_you_mean
from mtk.interfaces import Example, Task
from mtk.targets.labels import is_label

Row = str | Sequence[str] | Mapping[str, str] | Example


def numbered(rows: Iterable[Row]) -> list[tuple[int, Row]]:
    """The rows, counted from 1. Raises DataError for a single row that stands where a list of rows belongs."""
    if isinstance(rows, str | bytes | Mapping | Example):
        raise DataError(f"expected a list of rows, found one {type(rows).__name__}; put it in a list: [row]")
    return list(enumerate(rows, 1))


def examples_of(task: Task, split: str) -> Sequence[Example]:
    """A split's rows. Raises DataError, and PluginError where they are no Examples, or two have one id."""
    what = f"the {split} rows of task '{task.name}'"
    rows = checked_rows(task.examples(split), task, task, what)
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise plugins.wrong(task, what, "an id of its own for each row", f"'{row.id}' twice")
        seen.add(row.id)
    return rows


def checked_rows(rows: Any, task: Task, maker: object, what: str) -> Sequence[Example]:
    """The rows that a plugin's object made for the task. Raises PluginError where they are no sequence of Examples, or
    hold something else than the task's texts and parsed labels."""
    if not isinstance(rows, Sequence):
        raise plugins.wrong(maker, what, "a sequence of Examples", type(rows).__name__)
    for place, row in enumerate(rows):
        if not isinstance(row, Example):
            raise plugins.wrong(maker, what, "Examples", f"a {type(row).__name__} as row {place + 1}")
        if not isinstance(row.id, str):
            raise plugins.wrong(maker, what, f"a str as the id of row {place + 1}", repr(row.id))
        for name, text in (("text", row.text), ("pair", row.pair if task.paired else "")):
            if not isinstance(text, str):
                raise plugins.wrong(maker, f"{what}: row '{row.id}'", f"a str as its {name}", repr(text))
        if row.label is not None and not is_label(task.target, row.label):
            expected = f"a label as {type(task.target).__name__}.parse gives it"
            raise plugins.wrong(maker, f"{what}: row '{row.id}'", expected, repr(row.label))
    return rows


def wanted_by(task: Task) -> str:
    """What a task's rows hold, for messages."""
    return f"{'two texts' if task.paired else 'one text'} ({', '.join(task.columns)})"


def found_in(row: Any) -> str:
    """What a row holds, for messages."""
    if isinstance(row, Mapping):
        return f"the columns {', '.join(map(str, row)) or 'none'}"
    texts = _texts(row)
    if texts is None:
        return f"a row of type {type(row).__name__}"
    return {1: "one text", 2: "two texts"}.get(len(texts), f"{len(texts)} texts")


def _texts(row: Any) -> list[Any] | None:
    if isinstance(row, Example):
        return [row.text] if row.pair is None else [row.text, row.pair]
    if isinstance(row, str):
        return [row]
    return list(row) if isinstance(row, Sequence) and not isinstance(row, bytes | bytearray) else None


def can_read(task: Task, row: Any) -> bool:
    """Whether the row has the task's columns, or as many texts as the task reads."""
    if isinstance(row, Mapping):
        return all(row.get(column) is not None for column in task.columns)
    texts = _texts(row)
    return texts is not None and len(texts) == 1 + task.paired


def to_example(task: Task, number: int, row: Any) -> Example:
    """The row as the task reads it, texts stripped, without a label. Raises DataError that names the row."""
    where = f"row {number}: task '{task.name}'"
    if isinstance(row, Mapping):
        missing = [column for column in task.columns if row.get(column) is None]
        if missing:
            hint = did_you_mean(missing[0], [str(column) for column in row if column not in task.columns])
            raise DataError(f"{where} needs {' and '.join(task.columns)}, but {missing[0]} is missing{hint}")
        texts: list[Any] | None = [row[column] for column in task.columns]
    else:
        texts = _texts(row)
    if texts is None or len(texts) != 1 + task.paired:
        raise DataError(f"{where} reads {wanted_by(task)}, found {found_in(row)}")
    for column, text in zip(task.columns, texts, strict=True):
        if not isinstance(text, str):
            raise DataError(f"{where}: {column}: expected a text, found type {type(text).__name__}")
        if not text.strip():
            raise DataError(f"{where}: {column}: expected a text, found an empty one")
    identity = row.id if isinstance(row, Example) else str(number)
    return Example(identity, texts[0].strip(), texts[1].strip() if task.paired else None)
