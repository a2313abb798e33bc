"""The tasks of the CS 224N default project: one small declaration each."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from mtk import (
    BadRow,
    Classes,
    ConfigError,
    DataError,
    Example,
    NoRowsError,
    Range,
    Source,
    Task,
    TaskContext,
    check_bad_rows,
)
from mtk_text.reading import Layout, read_examples
from mtk_text.sources import file_names, find_source


class FileTask(Task):
    """A task whose splits are files of one layout. Built with (TaskContext).

    kind: the registered name. stem: what the names of its files begin with. label: the label's column.
    known_bad: ids of the published files' own bad rows, which are always skipped, and counted.
    bad: the rows left out so far, filled as files are read.

    bad_rows: how many further bad rows are skipped in each file before reading fails.
    """

    kind: ClassVar[str]
    stem: ClassVar[str]
    label: ClassVar[str]
    known_bad: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, context: TaskContext, *, bad_rows: int = 0) -> None:
        super().__init__(context)
        if bad_rows < 0:
            raise ConfigError(f"expected bad_rows >= 0, found {bad_rows}")
        self.bad_rows = bad_rows
        self.bad: list[BadRow] = []
        self._source: Source | None = None
        self._splits: dict[str, tuple[Example, ...]] = {}

    @property
    def source(self) -> Source:
        """Where the rows come from. Raises DataError where they cannot be had."""
        if self._source is None:
            self._source = find_source(self.context, self.kind, self.stem)
        return self._source

    def examples(self, split: str) -> Sequence[Example]:
        """The rows of a split, read once. Rows of `test` may have no labels. Raises DataError."""
        if split not in self._splits:
            file = self._file(split)
            self._splits[split] = self._read(file, labelled=split != "test", own=False)
        return self._splits[split]

    def read(self, file: Path) -> Sequence[Example]:
        """The rows of a user's own TSV, CSV or JSON lines with this task's columns; ids and labels may be missing.

        A row without an id is named by its line. Raises DataError.
        """
        return self._read(Path(file), labelled=False, own=True)

    def moved(self, data: Path) -> FileTask:
        """The same task on another data folder."""
        other = copy.copy(self)
        other.context = TaskContext(self.name, data)
        other.bad, other._source, other._splits = [], None, {}
        return other

    def _file(self, split: str) -> Path:
        names = file_names(self.stem)
        if split not in names:
            raise DataError(f"task '{self.name}' has the splits train, dev and test, not '{split}'")
        if split not in self.source.files:
            origin = self.source.origin
            wanted = " or ".join(names[split])
            raise NoRowsError(f"task '{self.name}' has no {split} rows: expected {wanted} in {origin}")
        return self.source.files[split]

    def _read(self, file: Path, *, labelled: bool, own: bool) -> tuple[Example, ...]:
        layout = Layout(self.columns, self.label, self.target.parse)
        examples, bad = read_examples(file, layout, labelled=labelled, ids=not own, known=self.known_bad)
        self.bad = [row for row in self.bad if row.file != file] + bad
        # Commands that read a user's own file take no task options.
        spec = self.name if self.name == self.kind else f"{self.name}={self.kind}"
        check_bad_rows(bad, self.bad_rows, "" if own else f"train with --task {spec}:bad_rows={{count}}")
        if not examples:
            raise DataError(f"{file}: expected rows, found none but bad ones ({len(bad)}); the first: {bad[0]}")
        return tuple(examples)


class SST(FileTask):
    """How positive a sentence of a film review is, in five classes (Socher et al., EMNLP 2013)."""

    kind, stem, label = "sst", "ids-sst", "sentiment"
    columns = ("sentence",)
    target = Classes(["very negative", "negative", "neutral", "positive", "very positive"])


class CFIMDB(FileTask):
    """Whether a whole film review is negative or positive (CFIMDB: Kaushik, Hovy and Lipton, ICLR 2020).

    The reviews are IMDB's, rewritten by as little as turned their verdicts round; the originals are no part of it. They
    are long, 207 WordPiece tokens in the median: with the default of 128 most ends go unread, while `--max-length 512`
    reads whole reviews, all but one of 1,952, where the encoder takes as many tokens (`tiny` takes fewer).
    """

    kind, stem, label = "cfimdb", "ids-cfimdb", "sentiment"
    columns = ("sentence",)
    target = Classes(["negative", "positive"])


class Quora(FileTask):
    """Whether two questions ask the same (Quora Question Pairs, 2017)."""

    kind, stem, label = "quora", "quora", "is_duplicate"
    columns, paired = ("sentence1", "sentence2"), True
    target = Classes(["not duplicate", "duplicate"])
    # Upstream quote damage: both rows have no label, the second has no second question either.
    known_bad = frozenset({"ad118c967d683c93883bf072d", "9054345d02cd6c5642a4904dc"})


class STS(FileTask):
    """How alike two sentences are in meaning, from 0 to 5 (STS benchmark; Cer et al., SemEval 2017)."""

    kind, stem, label = "sts", "sts", "similarity"
    columns, paired = ("sentence1", "sentence2"), True
    target = Range(0.0, 5.0)
