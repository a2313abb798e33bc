"""Files as tables: tab- or comma-separated with a header, or JSON lines. Knows lines and fields, no tasks."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtk.errors import DataError

QUOTE_HINT = "a double quote at the start of a text that never closes swallows what follows"


@dataclass(frozen=True, slots=True)
class TableRow:
    """One record: the line it begins at, its fields by column, and what is structurally wrong with it, if anything."""

    line: int
    fields: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A file's column names, and its rows; `rows` raises DataError where the file breaks off being a table."""

    columns: tuple[str, ...]
    rows: Iterator[TableRow]


def read_table(file: Path) -> Table:
    """A file as a table. Its form is told from its first line; a name that ends in .jsonl is held to its word.

    Raises DataError that names file and line where it is no UTF-8 text or no table, is empty or cannot be read.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None
    return parse_table(content, file)


def parse_table(content: bytes, file: Path) -> Table:
    """The content of a file, or of a stream that messages call `file`, as a table. Raises DataError."""
    text = _text(content, file)
    first = text.lstrip("\r\n").splitlines()[0]
    if first.lstrip().startswith("["):
        raise DataError(f"{file}:1: expected one JSON object a line or a table with a header, found a JSON list")
    if first.lstrip().startswith("{") or file.suffix.lower() in (".jsonl", ".ndjson"):
        return _json_lines(file, text)
    return _separated(file, text, _delimiter(first))


def _text(content: bytes, file: Path) -> str:
    """The content's text, without a byte order mark."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # A stripped byte order mark shifts the error's offsets by 3.
        start = error.start + (3 if content.startswith(b"\xef\xbb\xbf") else 0)
        line = content.count(b"\n", 0, start) + 1
        raise DataError(
            f"{file}:{line}: expected UTF-8, found byte 0x{content[start]:02x} at byte offset {start};"
            " save the file as UTF-8"
        ) from None
    if not text.strip():
        raise DataError(f"{file}: expected a header and rows, found an empty file ({len(content)} bytes)")
    if "\0" in text:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise DataError(f"{file}:{line}: expected text, found a NUL byte; is the file binary, or UTF-16?")
    return text


def _delimiter(header: str) -> str:
    if "\t" in header:
        return "\t"
    if "," in header:
        return ","
    # A header of one column: under a tab a line's own commas stay in its text.
    return ";" if ";" in header else "\t"


def _separated(file: Path, text: str, delimiter: str) -> Table:
    # Tab-separated files are read with Python's default, lenient quoting: stray quotes are common in them.
    lines: list[str] = []
    source = _noted(io.StringIO(text, newline=""), lines)
    reader = csv.DictReader(source, delimiter=delimiter, strict=delimiter != "\t")
    try:
        columns = tuple(name.strip() for name in reader.fieldnames or ())
    except csv.Error as error:
        raise DataError(f"{file}:1: the header cannot be read: {error}; {QUOTE_HINT}") from None
    reader.fieldnames = columns
    return Table(columns, _separated_rows(file, reader, delimiter, lines))


def _noted(stream: Iterable[str], lines: list[str]) -> Iterator[str]:
    """The stream's lines, each of them added to `lines` too."""
    for line in stream:
        lines.append(line)
        yield line


def _separated_rows(file: Path, reader: csv.DictReader[str], delimiter: str, lines: list[str]) -> Iterator[TableRow]:
    """lines: where the reader's source notes what it hands out; emptied here before every row."""
    width, read = len(reader.fieldnames or ()), reader.reader.line_num
    while True:
        lines.clear()
        try:
            fields: dict[Any, Any] = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            line = read + 1  # where the row begins; the reader is at its end
            raise DataError(f"{file}:{line}: the row cannot be read: {error}; {QUOTE_HINT}") from None
        extra = fields.pop(None, [])
        present = [value for value in fields.values() if value is not None]
        # A quote that is open at the end of the file holds its last line break too, hence the lower bound.
        before, read = read, reader.reader.line_num  # DictReader's own forgets blank lines
        line = max(before + 1, read - sum(_breaks(value) for value in [*present, *extra]))
        quoted = any('"' in text for text in lines)
        yield TableRow(line, fields, _ragged(fields, extra, width, quoted) or _swallowed(present, delimiter))


def _breaks(value: str) -> int:
    return max(value.count("\n"), value.count("\r"))


def _ragged(fields: dict[Any, Any], extra: list[str], width: int, quoted: bool) -> str | None:
    missing = sum(value is None for value in fields.values())
    if extra:
        # Columns of one name (the published SST test file has two) share a key, so fields are counted from the header.
        return f"expected {width} fields, found {width + len(extra)}"
    if missing:
        # DictReader pads with None only columns that the row does not reach.
        return f"expected {width} fields, found {width - missing}" + (f"; {QUOTE_HINT}" if quoted else "")
    return None


def _swallowed(values: list[str], delimiter: str) -> str | None:
    if delimiter == "\t" and any("\t" in value and "\n" in value for value in values):
        return f"one field holds tabs and line breaks; {QUOTE_HINT}"
    return None


def _json_lines(file: Path, text: str) -> Table:
    rows = [_json_row(line, content) for line, content in enumerate(text.split("\n"), 1) if content.strip()]
    columns = next((tuple(row.fields) for row in rows if row.problem is None), ())
    if not columns:
        raise DataError(f"{file}:{rows[0].line}: expected one JSON object a line, {rows[0].problem or 'found {}'}")
    return Table(columns, iter(rows))


def _json_row(line: int, content: str) -> TableRow:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        return TableRow(line, problem=f"found no JSON: {error}")
    if not isinstance(value, dict):
        return TableRow(line, problem=f"found a JSON {type(value).__name__} where an object was expected")
    return TableRow(line, value)
