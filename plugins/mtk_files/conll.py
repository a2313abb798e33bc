"""Words with tags: CoNLL columns, and spans of characters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mtk import DataError, Table, TableRow, decode_text

SUFFIXES = (".conll", ".conllu", ".conll03", ".bio", ".iob", ".iob2")
UNIVERSAL = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")


def read_conll(file: Path, *, encoding: str | None = None) -> Table:
    """A word a line, its columns separated by tabs or blanks, and an empty line between sentences: a row a sentence.

    Columns are numbered from 1 ("1", "2", ...) and hold lists, an entry a word. `text` is the first and `label` the
    last; of CoNLL-U (.conllu), columns have its names, `text` is the form and `label` the upos. Lines of comments,
    documents' starts, multi-word tokens and empty nodes are left out. Raises DataError.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None
    text, how = decode_text(content, file, encoding, guess=True)
    universal = file.suffix.lower() == ".conllu"
    sentences = list(_sentences(text, universal))
    if not sentences:
        raise DataError(f"{file}: expected words with their tags, a word a line, found none")
    width = len(sentences[0][1][0])
    names = UNIVERSAL if universal and width == len(UNIVERSAL) else tuple(str(n + 1) for n in range(width))
    word, tag = ("form", "upos") if names is UNIVERSAL else (names[0], names[-1])
    if width < 2:
        line = sentences[0][0]
        raise DataError(f"{file}:{line}: expected a word and its tag, separated by a tab or blanks, found one column")
    rows = (_row(line, words, names, word, tag) for line, words in sentences)
    return Table(("text", "label", *names), rows, f"{'CoNLL-U' if universal else 'CoNLL'} columns, {how}")


def _sentences(text: str, universal: bool) -> Iterator[tuple[int, list[list[str]]]]:
    """The line that a sentence begins at, and its words' columns."""
    begin, words = 0, []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        columns = line.rstrip().split("\t") if "\t" in line else line.split()
        if columns and any(columns):
            skipped = columns[0] == "-DOCSTART-" or (universal and (line.startswith("#") or not columns[0].isdecimal()))
            if not skipped:
                begin = begin or number
                words.append(columns)
        elif words:
            yield begin, words
            begin, words = 0, []


def _row(line: int, words: Sequence[Sequence[str]], names: Sequence[str], word: str, tag: str) -> TableRow:
    strange = next((n for n, columns in enumerate(words) if len(columns) != len(names)), None)
    if strange is not None:
        found = f"word {strange + 1} has {len(words[strange])}"
        return TableRow(line, {}, f"expected {len(names)} columns a word, {found}")
    fields: dict[str, Any] = {name: list(column) for name, column in zip(names, zip(*words, strict=True), strict=True)}
    blank = next((one for one in fields[word] if len(one.split()) != 1), None)
    if blank is not None:
        return TableRow(line, {}, f"expected words without blanks, found '{blank}'")
    return TableRow(line, {**fields, "text": fields[word], "label": fields[tag]})


def is_spans(value: Any) -> bool:
    """Whether a label is a list of spans: {"start": 0, "end": 5, "label": "PER"}, or [0, 5, "PER"]."""
    if not isinstance(value, list) or not value:
        return False
    return all(
        (isinstance(one, dict) and {"start", "end"} <= set(one))
        or (isinstance(one, list) and len(one) == 3 and all(isinstance(place, int) for place in one[:2]))
        for one in value
    )


def tags_of(text: str, spans: Sequence[Any]) -> list[str]:
    """B-, I- and O for every word of the text (what white space separates), from spans of characters, `end` apart.

    A word belongs to the span that covers any character of it. Raises ValueError where spans leave the text, cover no
    word or share one.
    """
    places, at = [], 0
    for word in text.split():
        at = text.index(word, at)
        places.append((at, at + len(word)))
        at += len(word)
    tags = ["O"] * len(places)
    for span in spans:
        start, end, name = _span(span)
        inside = [number for number, (a, b) in enumerate(places) if a < end and start < b]
        if not 0 <= start < end <= len(text) or not inside:
            raise ValueError(f"expected spans of characters from 0 to {len(text)}, found {name} from {start} to {end}")
        if any(tags[number] != "O" for number in inside):
            raise ValueError(f"expected spans that share no word, found {name} from {start} to {end} on another one")
        for number in inside:
            tags[number] = f"{'B' if number == inside[0] else 'I'}-{name}"
    return tags


def _span(span: Any) -> tuple[int, int, str]:
    if isinstance(span, dict):
        name = next((span[key] for key in ("label", "type", "entity") if key in span), None)
        start, end = span["start"], span["end"]
    else:
        start, end, name = span
    if not (isinstance(start, int) and isinstance(end, int) and isinstance(name, str) and name.strip()):
        raise ValueError(f"expected a span with start, end and label, found {span!r}")
    return start, end, name.strip()
