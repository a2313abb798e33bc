"""Files as tables: separated fields with a header, JSON lines, or Parquet. Knows lines and fields, no tasks."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtk.errors import DataError, PluginError, did_you_mean

QUOTE_HINT = "a double quote at the start of a text that never closes swallows what follows"
DELIMITERS = ("\t", ",", ";", "|")  # those that are looked for, the likeliest first
LEGACY = "cp1252"  # what Western files are in that are not UTF-8
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_ARCHIVES = (  # what stands for text by mistake: how it begins, what it holds, and what to do
    (b"PK\x03\x04", b"xl/", "an Excel file; export it as CSV"),
    (b"PK\x03\x04", b"opendocument.spreadsheet", "an OpenDocument spreadsheet; export it as CSV"),
    (b"PK\x03\x04", b"", "a ZIP archive; unpack it"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"", "an Excel file; export it as CSV"),
    (b"\x1f\x8b", b"", "a gzip archive; unpack it"),
)
_SEP = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)  # Excel's own first line
_LOOKED_AT = 50  # rows, where several delimiters could be meant
_MOST_ACCENTED = 0.3  # share of a Western text's letters that are not ASCII: French has 4%


@dataclass(frozen=True, slots=True)
class TableRow:
    """One record: the line it begins at (Parquet: its number, from 1), its fields by column, and what is structurally
    wrong with it, if anything."""

    line: int
    fields: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A file's column names, and its rows; `rows` raises DataError where the file breaks off being a table.

    form: what the file was read as, for people. delimiter: None where fields are not separated by one.
    """

    columns: tuple[str, ...]
    rows: Iterator[TableRow]
    form: str = ""
    delimiter: str | None = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was left out, and why, as `Task.bad` lists them. place: its file, or its data set and split.

    known: one of a published file's own bad rows, which are expected.
    """

    place: str
    line: int
    reason: str
    file: Path | None = None
    known: bool = False

    def __str__(self) -> str:
        return f"{self.place}:{self.line}: {self.reason}{' (known in the published file)' if self.known else ''}"


def check_bad_rows(bad: Iterable[BadRow], tolerated: int, skip: str = "") -> None:
    """Raises DataError where a file's bad rows, known ones apart, are more than what is tolerated.

    skip: what would leave them out, with {count} where their number belongs; empty where no option does.
    """
    rows = [row for row in bad if not row.known]
    if len(rows) <= tolerated:
        return
    others = ", ".join(str(row.line) for row in rows[1:9]) + (", ..." if len(rows) > 9 else "")
    lines = "line" if len(rows) == 2 else "lines"
    more = f" ({len(rows)} bad rows in this file; also in {lines} {others})" if len(rows) > 1 else ""
    way = f", or {skip.replace('{count}', str(len(rows)))}" if skip else ""
    raise DataError(f"{rows[0]}{more}; mend the file{way}")


def read_table(
    file: Path, *, delimiter: str | None = None, encoding: str | None = None, guess_encoding: bool = False
) -> Table:
    """A file as a table. Its form is told from its content; a name that ends in .jsonl is held to its word.

    delimiter, encoding: of the file, where they are known; else what the header shows, and UTF-8.
    guess_encoding: what is marked as UTF-16 is read so, and what is no UTF-8 and looks Western as cp1252. Raises
    DataError that names file and line where it is no text or no table, is empty or cannot be read; PluginError for
    Parquet without pyarrow.
    """
    content = content_of(file)
    return parse_table(content, file, delimiter=delimiter, encoding=encoding, guess_encoding=guess_encoding)


def content_of(file: Path) -> bytes:
    """A file's bytes. Raises DataError where it cannot be read."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{file}: no such file{_near(file)}") from None
    except OSError as error:
        if file.is_dir():
            raise DataError(f"{file}: expected a file, found a folder; name a file in it") from None
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None


def _near(file: Path) -> str:
    """`; did you mean 'reviews.csv'?`, where the folder holds a file of nearly that name, else nothing."""
    try:
        near = did_you_mean(file.name, [one.name for one in file.parent.iterdir() if one.is_file()])
    except OSError:
        return ""
    return near if near.startswith("; did") else ""


def parse_table(
    content: bytes,
    file: Path,
    *,
    delimiter: str | None = None,
    encoding: str | None = None,
    guess_encoding: bool = False,
) -> Table:
    """The content of a file, or of a stream that messages call `file`, as a table. Raises as `read_table` does."""
    if content.startswith(b"PAR1"):
        return _parquet(content, file)
    text, how = decode_text(content, file, encoding, guess_encoding)
    first = text.lstrip("\r\n").splitlines()[0]
    if first.lstrip().startswith("["):
        raise DataError(f"{file}:1: expected one JSON object a line or a table with a header, found a JSON list")
    if first.lstrip().startswith("{") or file.suffix.lower() in (".jsonl", ".ndjson"):
        return _json_lines(file, text, f"JSON lines, {how}")
    named = _SEP.match(text)
    found = delimiter or (named[1] if named else _delimiter(text))
    shown = {"\t": "tab-separated"}.get(found, f"separated by '{found}'")
    return _separated(file, text, found, f"{shown}, {how}", 0 if named is None else 1)


def decode_text(content: bytes, file: Path, encoding: str | None = None, guess: bool = False) -> tuple[str, str]:
    """A text without a byte order mark, and the name of its encoding. Raises DataError that names the first byte that
    cannot be read, and for an empty text.

    encoding: None stands for UTF-8. guess: as for `read_table`.
    """
    found = next((what for start, part, what in _ARCHIVES if content.startswith(start) and part in content), None)
    if found is not None:
        raise DataError(f"{file}: expected text, found {found}")
    marked = next((name for mark, name in _BOMS if content.startswith(mark) and (guess or name == "utf-8-sig")), None)
    if encoding is not None:
        try:
            named = codecs.lookup(encoding).name
        except LookupError:
            raise DataError(
                f"{file}: unknown encoding '{encoding}'; expected one such as utf-8, cp1252, latin-1 or utf-16"
            ) from None
        name, how = ("utf-8-sig" if named == "utf-8" else encoding), encoding
    else:
        name = marked or "utf-8"
        how = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8 with a byte order mark", "utf-16": "UTF-16"}[name]
    try:
        text = content.decode(name)
        if guess and encoding is not None and _is_utf8(content, text):
            how += " (warning: these bytes are UTF-8 too, which is likelier; leave out encoding)"
    except UnicodeDecodeError as error:
        start = error.start + (3 if marked == name == "utf-8-sig" else 0)  # the error does not count the mark
        if not (guess and name == "utf-8" and _looks_western(content)):
            raise DataError(_undecodable(content, file, start, how, guess)) from None
        text, line = content.decode(LEGACY), _line_at(content, start)
        how = f"{LEGACY} (no UTF-8: byte 0x{content[start]:02x} in line {line})"
    except UnicodeError as error:
        raise DataError(f"{file}: expected {how}, which it is not: {error}") from None
    if not text.strip():
        raise DataError(f"{file}: expected a header and rows, found an empty file ({len(content)} bytes)")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{file}:{line}: expected text, found a NUL byte; is the file binary, or UTF-16?")
    return text, how


def _line_at(content: bytes, place: int) -> int:
    return content.count(b"\n", 0, place) + 1


def _undecodable(content: bytes, file: Path, start: int, how: str, guess: bool) -> str:
    wanted = how.split()[0]
    likely = _likely_encoding(content)
    name = f'name its encoding, such as encoding = "{likely}"' if likely else "name its encoding"
    advice = f"{name}, or save it as UTF-8" if guess else "save the file as UTF-8"
    found = f"found byte 0x{content[start]:02x} at byte offset {start}"
    return f"{file}:{_line_at(content, start)}: expected {wanted}, {found}; {advice}"


def _likely_encoding(content: bytes) -> str | None:
    """The encoding that reads best, of those that are common; None where none does."""
    try:
        content.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError:
        pass
    if _looks_western(content):
        return LEGACY
    letters = re.findall(r"[^\W\d_]", content.decode("cp1251", "replace"))
    cyrillic = [letter for letter in letters if "\u0400" <= letter <= "\u04ff"]
    lower = sum(letter.islower() for letter in cyrillic)  # another Cyrillic encoding turns small letters into capitals
    return "cp1251" if len(cyrillic) > _MOST_ACCENTED * len(letters) and lower > len(cyrillic) / 2 else None


def _is_utf8(content: bytes, text: str) -> bool:
    """Whether the bytes, read as `text`, are another text in UTF-8."""
    try:
        return content.decode("utf-8-sig") != text and b"\0" not in content
    except UnicodeDecodeError:
        return False


def _looks_western(content: bytes) -> bool:
    """Whether it can be cp1252, and most of its letters are ASCII, as in the languages that are written in it."""
    try:
        letters = re.findall(r"[^\W\d_]", content.decode(LEGACY))
    except UnicodeDecodeError:
        return False
    return sum(letter > "\x7f" for letter in letters) <= _MOST_ACCENTED * len(letters)


def _delimiter(text: str) -> str:
    """The one that the header holds; of several, the one under which most rows have as many fields as it."""
    header = text.lstrip("\r\n").splitlines()[0]
    found = [one for one in DELIMITERS if one in header]
    if len(found) < 2 or found[0] == "\t":
        # A header of one column: under a tab a line's own commas stay in its text.
        return found[0] if found else "\t"
    return max(found, key=lambda one: _fitting(text, one))  # the first of equals


def _fitting(text: str, delimiter: str) -> float:
    """The share of the first rows that have the header's number of fields."""
    reader = csv.reader(io.StringIO(text.lstrip("\r\n"), newline=""), delimiter=delimiter)
    try:
        rows = [row for row, _ in zip(reader, range(_LOOKED_AT), strict=False) if row]
    except csv.Error:
        return 0.0
    return sum(len(row) == len(rows[0]) for row in rows) / len(rows) if len(rows[0]) > 1 else 0.0


def _separated(file: Path, text: str, delimiter: str, form: str, skipped: int = 0) -> Table:
    """skipped: lines above the header."""
    # Tab-separated files are read with Python's default, lenient quoting: stray quotes are common in them.
    lines: list[str] = []
    stream = io.StringIO(text, newline="")
    for _ in range(skipped):
        stream.readline()
    source = _noted(stream, lines)
    try:
        reader = csv.DictReader(source, delimiter=delimiter, strict=delimiter != "\t")
    except TypeError as error:
        raise DataError(f"{file}: delimiter: expected one character, found '{delimiter}'") from error
    try:
        columns = tuple(name.strip() for name in reader.fieldnames or ())
    except csv.Error as error:
        raise DataError(f"{file}:{1 + skipped}: the header cannot be read: {error}; {QUOTE_HINT}") from None
    reader.fieldnames = columns
    return Table(columns, _separated_rows(file, reader, delimiter, lines, skipped), form, delimiter)


def _noted(stream: Iterable[str], lines: list[str]) -> Iterator[str]:
    """The stream's lines, each of them added to `lines` too."""
    for line in stream:
        lines.append(line)
        yield line


def _separated_rows(
    file: Path, reader: csv.DictReader[str], delimiter: str, lines: list[str], skipped: int
) -> Iterator[TableRow]:
    """lines: where the reader's source notes what it hands out; emptied here before every row."""
    width, read = len(reader.fieldnames or ()), reader.reader.line_num
    while True:
        lines.clear()
        try:
            fields: dict[Any, Any] = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            line = read + 1 + skipped  # where the row begins; the reader is at its end
            raise DataError(f"{file}:{line}: the row cannot be read: {error}; {QUOTE_HINT}") from None
        extra = fields.pop(None, [])
        present = [value for value in fields.values() if value is not None]
        # A quote that is open at the end of the file holds its last line break too, hence the lower bound.
        before, read = read, reader.reader.line_num  # DictReader's own forgets blank lines
        line = max(before + 1, read - sum(_breaks(value) for value in [*present, *extra]))
        quoted = any('"' in text for text in lines)
        yield TableRow(line + skipped, fields, _ragged(fields, extra, width, quoted) or _swallowed(present, delimiter))


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


def _json_lines(file: Path, text: str, form: str) -> Table:
    rows = [_json_row(line, content) for line, content in enumerate(text.split("\n"), 1) if content.strip()]
    columns = tuple(dict.fromkeys(column for row in rows for column in row.fields))
    if not columns:
        raise DataError(f"{file}:{rows[0].line}: expected one JSON object a line, {rows[0].problem or 'found {}'}")
    return Table(columns, iter(rows), form)


def _json_row(line: int, content: str) -> TableRow:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        return TableRow(line, problem=f"found no JSON: {error}")
    if not isinstance(value, dict):
        return TableRow(line, problem=f"found a JSON {type(value).__name__} where an object was expected")
    return TableRow(line, value)


def _parquet(content: bytes, file: Path) -> Table:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise PluginError(f"{file}: reading Parquet needs pyarrow: pip install 'multitask-toolkit[parquet]'") from error
    try:
        table = parquet.read_table(pyarrow.BufferReader(content))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file}: no Parquet file, or a damaged one: {error}") from error
    if not table.num_rows:
        raise DataError(f"{file}: expected rows, found none")
    rows = (TableRow(number, fields) for number, fields in enumerate(table.to_pylist(), 1))
    return Table(tuple(table.column_names), rows, "Parquet")
