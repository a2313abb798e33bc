"""The texts of a file to predict: which columns hold them, for which tasks, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from mtk.errors import DataError, did_you_mean
from mtk.interfaces import Task
from mtk.tables import Table, TableRow, parse_table, read_table

# Column names that serve where the task's own are not there.
ONE_TEXT = (("text",), ("sentence",))
TWO_TEXTS = (("text", "pair"), ("sentence1", "sentence2"), ("text_a", "text_b"))
_NAMED = 8  # lines of bad rows that one message names

Columns = tuple[str, ...]


@dataclass(frozen=True)
class Texts:
    """A file's rows: their ids (a row's number where it has none), the columns by task, and the texts by columns."""

    ids: list[str | int]
    columns: dict[str, Columns]
    rows: dict[Columns, list[list[str]]]


def read_texts(file: Path, tasks: Mapping[str, Task], chosen: Sequence[str] | None = None) -> Texts:
    """The texts of a CSV, TSV or JSON lines file (`-`: standard input) for the chosen tasks, or all that find theirs.

    Raises DataError: an unknown task; file and line of a missing column, a bad row, or of what is no table.
    """
    for name in chosen or ():
        if name not in tasks:
            raise DataError(f"the run has no task '{name}'{did_you_mean(name, tasks)}")
    if str(file) == "-":
        file = Path("standard input")
        table = parse_table(typer.get_binary_stream("stdin").read(), file)
    else:
        table = read_table(file)
    columns = _columns(table, file, tasks, chosen)
    ids, rows = _rows(table, file, list(dict.fromkeys(columns.values())))
    return Texts(ids, columns, rows)


def _columns(table: Table, file: Path, tasks: Mapping[str, Task], chosen: Sequence[str] | None) -> dict[str, Columns]:
    """The text columns of every task: its own where the file has them, else those of a generic name."""

    def there(choice: Columns) -> bool:
        return all(column in table.columns for column in choice)

    found: dict[str, Columns] = {}
    for name in chosen or tasks:
        task = tasks[name]
        generic = [choice for choice in (TWO_TEXTS if task.paired else ONE_TEXT) if choice != task.columns]
        columns = next((choice for choice in (task.columns, *generic) if there(choice)), None)
        if columns is not None:
            found[name] = columns
        elif chosen:
            missing = next(column for column in task.columns if column not in table.columns)
            hint = did_you_mean(missing, [column for column in table.columns if column])
            others = " or ".join(" and ".join(choice) for choice in generic)
            raise DataError(f"{file}:1: task '{name}' needs the column '{missing}' (or {others}), found none{hint}")
    if not chosen:  # one text of a pair is not read by itself
        pairs = [choice for choice in (*TWO_TEXTS, *found.values()) if len(choice) == 2 and there(choice)]
        halves = {column for choice in pairs for column in choice}
        found = {name: columns for name, columns in found.items() if len(columns) == 2 or columns[0] not in halves}
    if not found:
        wanted = "; ".join(f"'{name}' reads {' and '.join(task.columns)}" for name, task in tasks.items())
        shown = ", ".join(column for column in table.columns if column) or "no named column"
        raise DataError(f"{file}:1: no task of this run finds its columns here: {wanted}; found {shown}")
    for column in {"id", *(c for choice in found.values() for c in choice)}:
        if table.columns.count(column) > 1:
            raise DataError(f"{file}:1: expected one column '{column}', found {table.columns.count(column)}")
    return found


def _rows(table: Table, file: Path, wanted: list[Columns]) -> tuple[list[str | int], dict[Columns, list[list[str]]]]:
    """Every row's id, and its texts by columns. Raises DataError that names the first bad row."""
    ids: list[str | int] = []
    texts: dict[Columns, list[list[str]]] = {columns: [] for columns in wanted}
    bad: list[tuple[int, str]] = []
    for number, row in enumerate(table.rows, 1):
        identity = row.fields.get("id")
        ids.append(identity if isinstance(identity, int) else str(identity or "").strip() or number)
        problem = row.problem or next((p for columns in wanted for c in columns if (p := _problem(row, c))), None)
        if problem:
            bad.append((row.line, problem))
            continue
        for columns in wanted:
            texts[columns].append([row.fields[column] for column in columns])
    if bad:
        line, problem = bad[0]
        others = ", ".join(str(line) for line, _ in bad[1:_NAMED]) + (", ..." if len(bad) > _NAMED else "")
        more = f" ({len(bad)} bad rows in this file; also in lines {others})" if len(bad) > 1 else ""
        raise DataError(f"{file}:{line}: {problem}{more}; nothing was predicted")
    if not ids:
        raise DataError(f"{file}: expected rows below the header, found none")
    return ids, texts


def _problem(row: TableRow, column: str) -> str | None:
    value = row.fields.get(column)
    if value is not None and not isinstance(value, str):
        return f"column '{column}': expected a text, found a {type(value).__name__}"
    return None if value and value.strip() else f"column '{column}' is empty, expected a text"
