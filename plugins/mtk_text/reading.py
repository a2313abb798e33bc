"""Rows of a table as examples of a task. What is wrong with a row is said with file and line, and counted."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtk import BadRow, DataError, Example, TableRow, did_you_mean, read_table


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns of a task's files hold the texts, the label and the id, and how a raw label is parsed."""

    texts: tuple[str, ...]
    label: str
    parse: Callable[[Any], Any]
    id: str = "id"


def read_examples(
    file: Path, layout: Layout, *, labelled: bool = True, ids: bool = True, known: Collection[str] = ()
) -> tuple[list[Example], list[BadRow]]:
    """A file's good rows and its bad ones, both in the file's order.

    labelled: every row must have a label; else the label's column, or single labels, may be missing.
    ids: the id's column must be there; else a row without one is named by its line.
    known: ids of bad rows that are expected. Raises DataError where the file as a whole cannot serve.
    """
    table = read_table(file)
    _check_columns(file, table.columns, layout, labelled, ids)
    examples: list[Example] = []
    bad: list[BadRow] = []
    seen: dict[str, int] = {}
    for row in table.rows:
        name = _field(row, layout.id) or (f"line {row.line}" if ids else str(row.line))
        try:
            example = _example(row, name, layout, labelled)
            if name in seen:
                raise ValueError(f"its id stands already in line {seen[name]}; ids must differ within a file")
        except ValueError as error:
            reason = textwrap.shorten(str(error), 300, placeholder=" ...")  # one line, whatever the field holds
            bad.append(BadRow(str(file), row.line, f"row '{name}': {reason}", file, name in known))
            continue
        seen[name] = row.line
        examples.append(example)
    if not examples and not bad:
        raise DataError(f"{file}: expected rows below the header, found none")
    return examples, bad


def _check_columns(file: Path, columns: tuple[str, ...], layout: Layout, labelled: bool, ids: bool) -> None:
    wanted = (*([layout.id] if ids else []), *layout.texts, *([layout.label] if labelled else []))
    for name in wanted:
        if name not in columns:
            hint = did_you_mean(name, [column for column in columns if column])
            raise DataError(f"{file}:1: expected a column '{name}', found none{hint}")
    for name in (layout.id, *layout.texts, layout.label):
        if columns.count(name) > 1:
            raise DataError(f"{file}:1: expected one column '{name}', found {columns.count(name)}")


def _example(row: TableRow, name: str, layout: Layout, labelled: bool) -> Example:
    """The row as an example. Raises ValueError that says what is wrong with it."""
    if row.problem:
        raise ValueError(row.problem)
    raw = row.fields.get(layout.label)
    if isinstance(raw, str):
        raw = raw.strip()
    elif isinstance(raw, bool):  # JSON's true and false
        raw = int(raw)
    if labelled and (raw is None or raw == ""):
        raise ValueError(f"column '{layout.label}' is empty, expected a label")
    texts = [_text(row, column) for column in layout.texts]
    label = None
    if raw is not None and raw != "":
        try:
            label = layout.parse(raw)
        except (ValueError, TypeError) as error:
            raise ValueError(f"column '{layout.label}': {error}") from None
    return Example(name, texts[0], texts[1] if len(texts) > 1 else None, label)


def _text(row: TableRow, column: str) -> str:
    value = row.fields.get(column)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"column '{column}': expected a text, found a {type(value).__name__}")
    value = (value or "").strip()
    if not value:
        raise ValueError(f"column '{column}' is empty, expected a text")
    return value


def _field(row: TableRow, column: str) -> str:
    value = row.fields.get(column)
    return "" if value is None else str(value).strip()
