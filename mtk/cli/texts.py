"""The texts of a file to predict: which columns hold them, for which tasks, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from mtk.errors import DataError, did_you_mean
from mtk.interfaces import Task
from mtk.tables import BadRow, Table, TableRow, content_of, parse_table

# Column names that serve where the task's own are not there.
ONE_TEXT = (("text",), ("sentence",))
TWO_TEXTS = (("text", "pair"), ("sentence1", "sentence2"), ("text_a", "text_b"))

Columns = tuple[str, ...]


@dataclass(frozen=True)
class Texts:
    """A file's rows: their ids (a row's number where it has none), the columns by task, the texts by columns and row
    (its place in `ids`), and the bad rows, whose texts some task or all cannot read."""

    ids: list[str | int]
    columns: dict[str, Columns]
    rows: dict[Columns, dict[int, list[str]]]
    bad: list[BadRow]


def read_texts(file: Path, tasks: Mapping[str, Task], chosen: Sequence[str] | None = None) -> Texts:
    """The texts of a CSV, TSV, JSON lines or Parquet file (`-`: standard input) for the chosen tasks, or all that find
    theirs.

    Raises DataError: an unknown task; file and line of a missing column, or of what is no table; no good row.
    """
    for name in chosen or ():
        if name not in tasks:
            raise DataError(f"the run has no task '{name}'{did_you_mean(name, tasks)}")
    if str(file) == "-":
        file, content = Path("standard input"), typer.get_binary_stream("stdin").read()
    else:
        content = content_of(file)
    table = _table(content, file, [tasks[name] for name in chosen or tasks])
    columns = _columns(table, file, tasks, chosen)
    named = [*(tasks[name].id_column for name in columns), "id"]
    identity = next((column for column in named if column in table.columns), None)
    for column in dict.fromkeys([identity, *(column for choice in columns.values() for column in choice)]):
        if column is not None and table.columns.count(column) > 1:
            raise DataError(f"{file}:1: expected one column '{column}', found {table.columns.count(column)}")
    ids, rows, bad = _rows(table, file, identity, list(dict.fromkeys(columns.values())))
    return Texts(ids, columns, rows, bad)


def _table(content: bytes, file: Path, tasks: Sequence[Task]) -> Table:
    """As the tasks' own files are read. What a task says of those may not hold for this one: the header must hold its
    delimiter, and UTF-8, which other text hardly ever happens to be, comes before its encoding."""
    encoding = next((task.encoding for task in tasks if task.encoding), None)
    if _is_utf8(content):
        encoding = None
    header = content.lstrip(b"\r\n").partition(b"\n")[0].decode(encoding or "utf-8", "replace")
    delimiter = next((task.delimiter for task in tasks if task.delimiter and task.delimiter in header), None)
    return parse_table(content, file, delimiter=delimiter, encoding=encoding, guess_encoding=True)


def _is_utf8(content: bytes) -> bool:
    try:
        return "\0" not in content.decode("utf-8")  # with NULs it is rather UTF-16
    except UnicodeDecodeError:
        return False


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
    return found


def _rows(
    table: Table, file: Path, identity: str | None, wanted: list[Columns]
) -> tuple[list[str | int], dict[Columns, dict[int, list[str]]], list[BadRow]]:
    """Every row's id, its texts by columns, and the bad rows. Raises DataError where no row is good."""
    ids: list[str | int] = []
    texts: dict[Columns, dict[int, list[str]]] = {columns: {} for columns in wanted}
    bad: list[BadRow] = []
    for place, row in enumerate(table.rows):
        own = row.fields.get(identity) if identity else None
        ids.append(own if isinstance(own, int) else str(own or "").strip() or place + 1)
        problems: list[str] = []
        for columns in wanted:
            try:
                texts[columns][place] = [_text(row, column) for column in columns]
            except ValueError as error:
                problems.append(str(error))
        if problems:
            bad.append(BadRow(str(file), row.line, "; ".join(dict.fromkeys(problems)), file))
    if not ids:
        raise DataError(f"{file}: expected rows below the header, found none")
    if not any(texts.values()):
        more = f" (and {len(bad) - 1:,} more bad rows)" if len(bad) > 1 else ""
        raise DataError(f"{bad[0]}{more}; no row can be predicted")
    return ids, texts, bad


def _text(row: TableRow, column: str) -> str:
    """Raises ValueError that says why there is none. A list of words, as rows with tags have, is their text."""
    value = row.fields.get(column)
    if row.problem:
        raise ValueError(row.problem)
    if isinstance(value, list) and value and all(isinstance(word, str) and word.split() == [word] for word in value):
        return " ".join(value)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"column '{column}': expected a text, found a {type(value).__name__}")
    if not value or not value.strip():
        raise ValueError(f"column '{column}' is empty, expected a text")
    return value
