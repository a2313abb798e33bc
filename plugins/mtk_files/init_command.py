"""`mtk task init`: a task file, guessed from a data file."""

from __future__ import annotations

import math
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mtk import TableRow
    from mtk_files.labels import Guess

LABELS = (
    *("label", "labels", "class", "category", "target", "sentiment", "emotion", "mood", "topic", "intent", "tags"),
    *("ner_tags", "score", "rating", "stars", "similarity", "is_duplicate", "gold", "y"),
)
IDS = ("id", "_id", "idx", "guid", "uid")
PAIRS = (
    *(("sentence1", "sentence2"), ("question1", "question2"), ("text1", "text2"), ("text_a", "text_b")),
    *(("sentence_a", "sentence_b"), ("premise", "hypothesis"), ("query", "passage"), ("question", "answer")),
    *(("text", "pair"), ("anchor", "positive")),
)
_CODE = re.compile(r"(?=.*\d)[\w#/-]{1,64}")  # an id-like value: digits, letters, no blanks and no decimals
LEAST_WORDS = 2.0  # a row, in the mean, of a column that holds texts


def init_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, TSV, JSON lines, Parquet or CoNLL columns.")],
    out: Annotated[
        Path | None, typer.Option(help="The task file to write. Default: FILE's name with .toml, beside it; - prints.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="The column of texts.")] = None,
    pair: Annotated[str | None, typer.Option(help="The column of second texts.")] = None,
    label: Annotated[str | None, typer.Option(help="The column of labels.")] = None,
) -> None:
    """Write a task file after a look at the data, and say what was guessed.

    mtk task init tweets.csv
    """  # fmt: skip
    from mtk import ConfigError, DataError

    if file.is_dir():
        raise DataError(f"{file}: expected a file, found a folder; name a file in it")
    printed = str(out) == "-"
    place = out if out is not None and not printed else file.with_suffix(".toml")
    if not printed and place.exists():
        raise ConfigError(f"--out {place}: there is such a file; choose another name, or remove it")
    stanza, said = describe(file, Path() if printed else place.parent, place, text=text, pair=pair, label=label)
    if printed:
        typer.echo(stanza, nl=False)
        return
    try:
        place.write_text(stanza, encoding="utf-8")
    except OSError as error:
        raise DataError(f"--out {place}: cannot be written: {error.strerror or error}") from error
    for line in said:
        typer.echo(line)
    named = shlex.quote(str(place))
    typer.echo(f"\nwrote {place}; look at it, then: mtk data check {named}; mtk train --task {named}")


def describe(
    file: Path, folder: Path, place: Path, *, text: str | None, pair: str | None, label: str | None
) -> tuple[str, list[str]]:
    """The text of a task file that stands in `folder`, and what was guessed, a line each. Raises DataError."""
    from mtk import DataError, did_you_mean
    from mtk_files.rows import Layout, cut, open_file, read_rows

    table = open_file(file, Layout(""))
    rows = list(table.rows)
    columns = [name for name in table.columns if name]
    for option, name in (("--text", text), ("--pair", pair), ("--label", label)):
        if name is not None and name not in columns:
            near = cut(did_you_mean(name, map(cut, columns)), 300)
            raise DataError(f"{option} {name}: no such column in {file}{near}")
    sound = [row for row in rows if row.problem is None]
    if not sound:
        raise DataError(f"{file}: expected rows, found none" + (f" but bad ones: {rows[0].problem}" if rows else ""))
    lines = [f"{file.name}: {table.form}, {len(rows):,} rows, columns {_listed(columns)}"]
    first_text, second = _texts(columns, sound, text, pair, label)
    chosen = label or _label(columns, sound, {first_text, second})
    keys: list[tuple[str, Any, str]] = [
        ("data", _relative(file, folder), 'told from this file; or { train = "...", dev = "..." }'),
        ("text", first_text, "" if text else f"{_words(sound, first_text):.1f} words a row, the most"),
    ]
    if second is not None:
        keys.append(("pair", second, "the second text" if pair else "guessed from the names"))
    if chosen is not None:
        found = _guess(file, sound, table.columns, first_text, chosen)
        keys.append(("label", chosen, "" if label else "guessed"))
        keys += [("kind", found.kind, found.why.partition(": ")[2]), *((k, v, "") for k, v in found.options.items())]
    elif second is not None:
        keys.append(("kind", "ranking", "two texts and no label column: which texts belong together"))
    else:
        raise DataError(f"{file}: no column looks like a label, of {_listed(columns)}; name it: --label COLUMN")
    free = [name for name in columns if name not in (first_text, second, chosen)]
    identity = _identity(free, sound)
    if identity is not None:
        keys.append(("id", identity, "different in every row"))
    layout = Layout(first_text, second, chosen, identity)
    _, bad = read_rows(str(file), file, type(table)(table.columns, iter(rows)), layout, labelled=True)
    if bad:
        said = f"{len(bad):,} bad row{'s' * (len(bad) > 1)}, the first in line {bad[0].line}: {bad[0].reason}"
        lines.append(said)
        keys.append(("bad_rows", len(bad), "left out; mend the file, and take this line away"))
    told = [*lines, *(f"{key} = {_toml(value)}" + (f"  ({why})" if why else "") for key, value, why in keys)]
    return _stanza(lines, keys, place), told


def _stanza(lines: list[str], keys: list[tuple[str, Any, str]], place: Path) -> str:
    named = shlex.quote(f"./{place.name}")
    written = [f"{key} = {_toml(value)}" + (f"  # {why}" if why else "") for key, value, why in keys]
    return "\n".join(
        [
            f"# A task for mtk: mtk data check {named}; mtk train --task {named}",
            *(f"# {line}" for line in lines),
            *written,
            "# split = { dev = 0.1, test = 0.1, seed = 11711 }  # how dev and test are carved",
            "",
        ]
    )


def _toml(value: Any) -> str:
    import tomli_w

    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return tomli_w.dumps({"key": value}).removeprefix("key = ").strip()


def _relative(file: Path, folder: Path) -> str:
    """The path from the task file's folder, with slashes."""
    try:
        return Path(os.path.relpath(file.absolute(), folder.absolute())).as_posix()
    except ValueError:  # another drive
        return str(file.absolute())


def _texts(
    columns: list[str], rows: list[TableRow], text: str | None, pair: str | None, label: str | None
) -> tuple[str, str | None]:
    """The columns of the texts: those given, those of a known name in twos, else the one with the most words."""
    from mtk import DataError

    free = [name for name in columns if name not in (text, pair, label)]
    lower = {name.lower(): name for name in free}
    if text is None and pair is None:
        for a, b in PAIRS:
            if a in lower and b in lower:
                return lower[a], lower[b]
    if text is not None:
        return text, pair
    words = {name: _words(rows, name) for name in free}
    best = max(words, key=words.__getitem__, default=None)
    if best is None or words[best] < LEAST_WORDS:
        raise DataError(f"no column looks like texts, of {_listed(columns)}; name it: --text COLUMN")
    return best, pair


def _words(rows: list[TableRow], column: str) -> float:
    """Words a row in the mean; 0 where it holds something else than texts."""
    values = [row.fields.get(column) for row in rows]
    if any(isinstance(value, list) for value in values):
        return sum(len(value or ()) for value in values) / len(values) if column == "text" else 0.0
    texts = [value for value in values if isinstance(value, str)]
    return sum(len(value.split()) for value in texts) / len(values)


def _label(columns: list[str], rows: list[TableRow], taken: set[str | None]) -> str | None:
    """A column of a known name, else the one with the fewest different values that repeat, else one of numbers."""
    free = [name for name in columns if name not in taken and name.lower() not in IDS]
    from mtk_files.labels import as_number

    known = next((name for wanted in LABELS for name in free if name.lower() == wanted), None)
    if known is not None:
        return known
    counts = {name: len({str(row.fields.get(name)) for row in rows}) for name in free}
    few = {name: count for name, count in counts.items() if 2 <= count <= len(rows) / 2}
    if few:
        return min(few, key=few.__getitem__)
    numbers = (name for name in free if all(math.isfinite(as_number(row.fields.get(name))) for row in rows))
    return next(numbers, None)


def _guess(file: Path, rows: list[TableRow], columns: tuple[str, ...], text: str, label: str) -> Guess:
    from mtk import Table
    from mtk_files.labels import guess
    from mtk_files.rows import Layout, read_rows

    good, _ = read_rows(str(file), file, Table(columns, iter(rows)), Layout(text, label=label), labelled=True)
    return guess(good, label)


def _identity(columns: list[str], rows: list[TableRow]) -> str | None:
    """A column that names the rows: by its own name, else by values that look like numbers or codes."""
    unique = [name for name in columns if _unique(rows, name)]
    named = (name for name in unique if name.lower() in IDS)
    coded = (name for name in unique if all(_CODE.fullmatch(str(row.fields[name]).strip()) for row in rows))
    return next(named, next(coded, None))


def _listed(columns: list[str]) -> str:
    from mtk_files.rows import cut

    return cut(", ".join(map(cut, columns)), 300)


def _unique(rows: list[TableRow], column: str) -> bool:
    values = [str(row.fields.get(column) or "") for row in rows]
    return all(values) and len(set(values)) == len(values)
