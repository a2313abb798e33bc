"""From files, or a data set of the Hub, to rows: which columns hold what, and what is wrong with a row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtk import BadRow, ConfigError, DataError, Table, TableRow, did_you_mean, read_table
from mtk_files.conll import SUFFIXES, is_spans, read_conll, tags_of

PARTS = ("train", "dev", "test")
ALL = "all"  # the part of rows that are carved into splits
Paths = str | list[str] | dict[str, str | list[str]]


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns hold the texts, the label (None: no row has one), the id (None: a row's line) and what ties rows
    or sorts them; and how the files are written, where that is known."""

    text: str
    pair: str | None = None
    label: str | None = None
    id: str | None = None
    group: str | None = None
    stratum: str | None = None
    delimiter: str | None = None
    encoding: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,) if self.pair is None else (self.text, self.pair)


@dataclass(frozen=True, slots=True)
class Row:
    """A row whose label is not parsed yet: None where it has none."""

    place: str
    file: Path | None
    line: int
    id: str
    texts: tuple[str, ...]
    raw: Any = None
    group: Any = None
    stratum: Any = None


# ---------------------------------------------------------------------------------------------- which files


def find_parts(data: Paths, folder: Path | None, task: str) -> dict[str, list[Path]]:
    """The files of each part: train, dev and test, or all in one.

    folder: where files of these names are taken instead, if there are any. Raises ConfigError and DataError.
    """
    if not isinstance(data, Mapping):
        return {ALL: _files(data, folder, task)}
    for part in data:
        if part not in PARTS:
            raise ConfigError(f"data: unknown split '{part}'{did_you_mean(part, PARTS)}")
    if "train" not in data:
        raise ConfigError(f"data: expected a file for train, found {', '.join(data) or 'none'}")
    return {part: _files(data[part], folder, task) for part in PARTS if part in data}


def _files(paths: str | Sequence[str], folder: Path | None, task: str) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, [paths] if isinstance(paths, str) else paths):
        own = path.expanduser().absolute()
        there = _match(folder / own.name) if folder is not None else []
        files = there or _match(own)
        if not files:
            what = "no file matches" if _is_pattern(own) else "no such file"
            hint = "" if folder is None else f", nor is there one in {folder}"
            raise DataError(
                f"{own}: {what}{hint}; task '{task}' reads it: if it has moved, name its folder with --data{_near(own)}"
            )
        if files[0].is_dir():
            raise DataError(f"{own}: expected a file, found a folder; name a file in it, or several: {own}/*.csv")
        found += [file for file in files if file not in found]
    if not found:
        raise ConfigError("data: expected a path, a list of them, or a path for train, dev and test; found none")
    return found


def _near(path: Path) -> str:
    """`; did you mean 'reviews.csv'?`, where its folder holds a file of nearly that name."""
    names = [one.name for one in path.parent.iterdir() if one.is_file()] if path.parent.is_dir() else []
    near = did_you_mean(path.name, names)
    return near if near.startswith("; did") else ""


def _is_pattern(path: Path) -> bool:
    return any(letter in path.name for letter in "*?[")


def _match(path: Path) -> list[Path]:
    if path.exists():
        return [path]
    return sorted(file for file in path.parent.glob(path.name) if file.is_file()) if _is_pattern(path) else []


# ---------------------------------------------------------------------------------------------- what is in them


def open_file(file: Path, layout: Layout) -> Table:
    """A file as a table, whatever its form. Raises DataError and PluginError."""
    if file.suffix.lower() in SUFFIXES:
        return read_conll(file, encoding=layout.encoding)
    return read_table(file, delimiter=layout.delimiter, encoding=layout.encoding, guess_encoding=True)


def read_rows(
    place: str, file: Path | None, table: Table, layout: Layout, *, labelled: bool
) -> tuple[list[Row], list[BadRow]]:
    """The good rows and the bad ones of a table, in its order; a row without a label is a good one.

    labelled: the label's column must be there. Raises DataError for a missing column, and where there are no rows.
    """
    wanted = [*layout.texts, *filter(None, (layout.id, layout.group, layout.stratum))]
    for column in [*wanted, layout.label] if labelled and layout.label else wanted:
        if column not in table.columns:
            hint = cut(did_you_mean(column, [cut(name) for name in table.columns if name]), 300)
            raise DataError(f"{place}:1: expected a column '{column}', found none{hint}")
        if table.columns.count(column) > 1:
            raise DataError(f"{place}:1: expected one column '{column}', found {table.columns.count(column)}")
    good: list[Row] = []
    bad: list[BadRow] = []
    seen: dict[str, int] = {}
    for row in table.rows:
        try:
            found = _row(place, file, row, layout)
            if found.id in seen:
                raise ValueError(f"its id '{found.id}' stands already in line {seen[found.id]}")
        except ValueError as error:
            bad.append(BadRow(place, row.line, shortened(error), file))
            continue
        seen[found.id] = row.line
        good.append(found)
    if not good and not bad:
        raise DataError(f"{place}: expected rows below the header, found none")
    return good, bad


def cut(text: str, length: int = 60) -> str:
    """A text that a file holds, for a message: its first letters."""
    return text if len(text) <= length else f"{text[:length]}..."


def shortened(error: object) -> str:
    """One line of it, whatever a field holds."""
    return cut(" ".join(str(error).split()), 300)


def _row(place: str, file: Path | None, row: TableRow, layout: Layout) -> Row:
    """Raises ValueError that says what is wrong with the row."""
    if row.problem:
        raise ValueError(row.problem)
    texts = tuple(_text(row, column) for column in layout.texts)
    raw: Any = None if layout.label is None else row.fields.get(layout.label)
    if is_spans(raw):
        raw = tags_of(row.fields[layout.text], raw)
    identity = str(row.line) if layout.id is None else str(row.fields[layout.id] or "").strip()
    if not identity:
        raise ValueError(f"column '{layout.id}' is empty, expected an id")
    group, stratum = (None if name is None else _key(row.fields.get(name)) for name in (layout.group, layout.stratum))
    return Row(place, file, row.line, identity, texts, None if is_missing(raw) else raw, group, stratum)


def _text(row: TableRow, column: str) -> str:
    value = row.fields.get(column)
    if isinstance(value, list) and value and all(isinstance(word, str) and word.split() == [word] for word in value):
        return " ".join(value)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"column '{column}': expected a text, found a {type(value).__name__}")
    if not (value or "").strip():
        raise ValueError(f"column '{column}' is empty, expected a text")
    return str(value).strip()


def _key(value: Any) -> str | None:
    return None if is_missing(value) else str(value).strip()


def is_missing(raw: Any) -> bool:
    """An empty field, JSON's null, or Parquet's NaN."""
    return raw is None or (isinstance(raw, str) and not raw.strip()) or (isinstance(raw, float) and math.isnan(raw))


def labels_of(rows: Sequence[Row]) -> Iterator[Any]:
    return (row.raw for row in rows if row.raw is not None)
