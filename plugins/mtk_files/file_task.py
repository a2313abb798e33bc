"""What all tasks on rows of your own have in common: columns, splits, bad rows."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from mtk import (
    BadRow,
    ConfigError,
    DataError,
    Example,
    NoRowsError,
    Prediction,
    Source,
    Table,
    Task,
    TaskContext,
    check_bad_rows,
    did_you_mean,
)
from mtk_files.carving import Item, Split, carve, largest_tie
from mtk_files.hub import read_hub
from mtk_files.labels import some
from mtk_files.rows import (
    ALL,
    PARTS,
    Layout,
    Paths,
    Row,
    find_parts,
    labels_of,
    open_file,
    read_rows,
    shortened,
)

DEFAULT_SHARE = 0.1  # of the rows, for dev and test each, where they are carved


class FileTask(Task):
    """Rows of files, or of a data set of the Hub, with one kind of label. Built with (TaskContext).

    data: a file, a list of them or a pattern (`*.csv`), whose rows are carved into train, dev and test; or a mapping
        of these splits, where dev is carved from train if it is left out. CSV, TSV, JSON lines, Parquet, CoNLL columns.
    hub: the name of a Hub data set. config, revision: of that data set; default: its own, the newest.
    splits: the data set's names of train, dev and test, where they differ.
    text, pair, label, id: columns; without `id` a row is named by its line.
    split: {dev = 0.1, test = 0.1, seed = 11711, stratify = false, group = "column"}; see carving.Split.
    delimiter, encoding: of the files, where they are not to be found out.
    max_rows: so many training rows, drawn by the split's seed. metric: the main one.
    bad_rows: how many bad rows are left out of each file before reading fails.

    A row without a label is no bad one: train leaves it out, dev and test keep it and do not score it.
    Raises ConfigError for options that do not fit, DataError with file and line for what is wrong with the data.
    """

    kind: ClassVar[str]
    own: ClassVar[tuple[str, ...]] = ()  # options that not all kinds have
    stratified: ClassVar[bool] = False  # labels are classes, which carved splits can get in proportion

    def __init__(
        self,
        context: TaskContext,
        *,
        data: Paths | None = None,
        hub: str | None = None,
        config: str | None = None,
        revision: str | None = None,
        splits: dict[str, str] | None = None,
        text: str = "text",
        pair: str | None = None,
        label: str | None = None,
        id: str | None = None,
        split: dict[str, Any] | None = None,
        delimiter: str | None = None,
        encoding: str | None = None,
        max_rows: int | None = None,
        metric: str | None = None,
        bad_rows: int = 0,
    ) -> None:
        super().__init__(context)
        self._given: dict[str, Any] = {
            "data": data, "hub": hub, "config": config, "revision": revision, "splits": splits, "text": text,
            "pair": pair, "label": label, "id": id, "split": split, "delimiter": delimiter, "encoding": encoding,
            "max_rows": max_rows, "metric": metric, "bad_rows": bad_rows,
        }  # fmt: skip
        if (data is None) == (hub is None):
            raise ConfigError(f"expected either data or hub, found {'none' if data is None else 'both'}")
        if stray := next((key for key in ("config", "revision", "splits") if hub is None and self._given[key]), None):
            raise ConfigError(f"{stray}: belongs to hub, found none")
        if bad_rows < 0:
            raise ConfigError(f"bad_rows: expected 0 or more, found {bad_rows}")
        if max_rows is not None and max_rows < 1:
            raise ConfigError(f"max_rows: expected 1 or more, found {max_rows}")
        self.data, self.hub = data, hub
        self.split = Split.of(split or {})
        self.paired = pair is not None
        self.columns = (text,) if pair is None else (text, pair)
        self.id_column, self.delimiter, self.encoding = id or "id", delimiter, encoding
        stratum = self.split.stratify if isinstance(self.split.stratify, str) else None
        name = self._label_column(label)
        if name in self.columns:
            raise ConfigError(f"label: '{name}' is what the model reads; expected another column than text and pair")
        self.layout = Layout(text, pair, name, id, self.split.group, stratum, delimiter, encoding)
        self.bad: list[BadRow] = []
        self.notes: list[str] = []
        self.guessed = False  # whether a note says already how the kind was found
        self.there: tuple[str, ...] = ()  # the columns of the rows read so far
        self._parts: dict[str, list[Path]] | None = None
        self._rows: dict[str, list[Row]] | None = None
        self._misread: list[BadRow] = []  # before any look at their labels
        self._splits: dict[str, tuple[Example, ...]] | None = None

    # ------------------------------------------------------------------------------------------ for the core

    @property
    def source(self) -> Source:
        """Where the rows come from. Raises DataError where they cannot be had."""
        if self.hub is not None:
            return Source(f"data set {self.hub} of the Hub")
        parts = self._found()
        named: dict[str, Path] = {}
        for split in PARTS:
            for number, file in enumerate(parts.get(split, parts.get(ALL, [])), 1):
                named[split if number == 1 else f"{split} {number}"] = file
        for split, share in (
            ("dev", DEFAULT_SHARE if self.split.dev is None else self.split.dev),
            ("test", self.split.test),
        ):
            if share and split not in parts and ALL not in parts:
                named[split] = parts["train"][0]
        if self.split.test == 0 and ALL in parts:
            named = {key: file for key, file in named.items() if key.partition(" ")[0] != "test"}
        files = list(dict.fromkeys(named.values()))
        origin = str(files[0]) if len(files) == 1 else f"{len(files)} files in {files[0].parent}"
        return Source(origin, named)

    def examples(self, split: str) -> Sequence[Example]:
        """The rows of a split, read once. Raises DataError."""
        if split not in PARTS:
            raise DataError(f"task '{self.name}' has the splits train, dev and test, not '{split}'")
        if self._splits is None:
            self._splits = self._read_splits()
        if split not in self._splits:
            raise NoRowsError(f"task '{self.name}' has no {split} rows: name their file in data, or a share in split")
        return self._splits[split]

    def read(self, file: Path) -> Sequence[Example]:
        """The rows of another file with this task's columns; labels may be missing. Raises DataError."""
        rows, bad = read_rows(str(file), file, open_file(file, self.layout), self.layout, labelled=False)
        examples, wrong = self._parsed(rows)
        bad = sorted([*bad, *wrong], key=lambda one: one.line)
        self.bad = [one for one in self.bad if one.file != file] + bad
        check_bad_rows(bad, self._given["bad_rows"])
        return _good(examples)

    @property
    def primary(self) -> str:
        return self._given["metric"] or self.target.primary

    @property
    def spec(self) -> tuple[str, Mapping[str, Any]]:  # type: ignore[override]
        """The kind, and the options with what was found in the rows."""
        given = {key: value for key, value in self._given.items() if value not in (None, {}, [])}
        split = {key: value for key, value in asdict(self.split).items() if value is not None}
        return self.kind, {**given, "split": split, **self.found}

    @property
    def found(self) -> Mapping[str, Any]:
        """The options of this kind, as given or found."""
        return {}

    @property
    def default_head(self) -> str:  # type: ignore[override]
        return self.target.head

    # ------------------------------------------------------------------------------------------ for the kinds

    def _label_column(self, given: str | None) -> str | None:
        return given or "label"

    def raw_label(self, raw: Any) -> Any:
        """What a file has, as the target reads it. Raises ValueError."""
        return raw

    def raws(self) -> list[Any]:
        """All labels, as the files have them."""
        return [raw for rows in self.rows().values() for raw in labels_of(rows)]

    # ------------------------------------------------------------------------------------------ reading

    def rows(self) -> dict[str, list[Row]]:
        """The rows by part, read once. Raises DataError."""
        if self._rows is not None:
            return self._rows
        if self.context.sample == "always":
            raise DataError(f"task '{self.name}' has rows of its own and no sample; leave out --sample")
        read: dict[str, list[Row]] = {}
        bad: list[BadRow] = []
        parts = {} if self.hub is not None else self._found()
        labels = {part: _labels(files) for part, files in parts.items() if len(files) > 1}
        for part, place, file, table in self._tables():
            rows, wrong = read_rows(place, file, table, self.layout, labelled=part != "test")
            if not rows:
                self._check_bad_rows(wrong)
            if file is None:
                self._note(f"{place}: {len(rows):,} rows")
            else:
                self._note(f"{file.name}: {table.form}, {len(rows):,} rows")
                if part in labels:
                    rows = [_renamed(row, f"{labels[part][file]}:{row.id}") for row in rows]
            read.setdefault(part, []).extend(rows)
            bad += wrong
            self.there = self.there or table.columns
        if "train" not in read and ALL not in read:
            raise DataError(f"hub '{self.hub}': expected a split train, found none; name it: splits = {{train = ...}}")
        self._rows, self._misread = read, bad
        return self._rows

    def _tables(self) -> Iterator[tuple[str, str, Path | None, Table]]:
        """Part, place and table of every file, or of the data set's splits."""
        if self.hub is not None:
            given = self._given
            for part, table in read_hub(self.hub, given["config"], given["revision"], given["splits"]).items():
                yield part, f"{self.hub} {part}", None, table
        else:
            for part, files in self._found().items():
                for file in files:
                    yield part, str(file), file, open_file(file, self.layout)

    def take_rows(self, other: FileTask) -> None:
        """Takes what another task of the same rows has read."""
        self._parts, self._rows, self._misread, self.there = other._parts, other._rows, other._misread, other.there
        self.notes = list(other.notes)

    def check_read(self) -> None:
        """Raises DataError where more rows than tolerated could not be read, whatever their labels."""
        for place in dict.fromkeys(one.place for one in self._misread):
            self._check_bad_rows([one for one in self._misread if one.place == place])

    def _note(self, line: str) -> None:
        if line not in self.notes:  # a read that failed may be tried again
            self.notes.append(line)

    def _found(self) -> dict[str, list[Path]]:
        if self._parts is None:
            assert self.data is not None
            self._parts = find_parts(self.data, self.context.data, self.name)
        return self._parts

    def _parsed(self, rows: Sequence[Row]) -> tuple[list[Example | None], list[BadRow]]:
        """An example a row, None where its label is wrong; and those rows."""
        examples: list[Example | None] = []
        bad: list[BadRow] = []
        for row in rows:
            try:
                label = None if row.raw is None else self.target.parse(self.raw_label(row.raw))
                example = Example(row.id, row.texts[0], row.texts[1] if self.paired else None, label)
                self.target.check(example)
                examples.append(example)
            except (ValueError, TypeError) as error:
                examples.append(None)
                bad.append(BadRow(row.place, row.line, f"column '{self.layout.label}': {shortened(error)}", row.file))
        return examples, bad

    def _check_bad_rows(self, bad: Sequence[BadRow]) -> None:
        skip = f"leave such rows out: bad_rows = {{count}} in task '{self.name}'"
        check_bad_rows(bad, self._given["bad_rows"], skip)

    def _read_splits(self) -> dict[str, tuple[Example, ...]]:
        parts = {}
        read = self.rows()
        bad = list(self._misread)
        for part, rows in read.items():
            parts[part], wrong = self._parsed(rows)
            bad += wrong
        self.bad = bad
        for place in dict.fromkeys(one.place for one in self.bad):
            of_file = sorted((one for one in self.bad if one.place == place), key=lambda one: one.line)
            self._check_bad_rows(of_file)
        if not self.guessed:
            self._note(f"kind {self.kind}, as given")
        splits = self._carved(parts)
        train = [row for row in splits["train"] if row.label is not None]
        if len(train) < len(splits["train"]):
            self._note(f"{len(splits['train']) - len(train):,} rows without a label are left out of training")
        most = self._given["max_rows"]
        if most is not None and most < len(train):
            share = most / len(train)
            chosen = carve([Item((row.id, row.text)) for row in train], {"kept": share}, self.split.seed)
            train = [row for row, name in zip(train, chosen, strict=True) if name == "kept"]
        if not train:
            raise DataError(f"task '{self.name}': none of its {len(splits['train'])} training rows has a label")
        self._check_metric(train)
        self._note_unlearnt(train)
        return {**splits, "train": tuple(train)}

    def _carved(self, parts: Mapping[str, Sequence[Example | None]]) -> dict[str, tuple[Example, ...]]:
        """The splits: those that are there, and those that are carved.

        Rows whose labels are wrong are carved with the others, so that a task with other labels is carved alike.
        """
        if self.split.stratify is True and not self.stratified:
            raise ConfigError(
                f"split: stratify: expected a column for a task of {self.kind}, whose labels are no classes, found true"
            )
        asked = {"dev": self.split.dev, "test": self.split.test}
        both = next((name for name, share in asked.items() if share and name in parts), None)
        if both:
            raise ConfigError(f"split: {both}: these rows have a file of their own; leave out the share or the file")
        pool = ALL if ALL in parts else "train"
        default = {"dev": DEFAULT_SHARE, "test": DEFAULT_SHARE if pool == ALL else 0.0}
        shares = {n: default[n] if s is None else s for n, s in asked.items() if n not in parts}
        shares = {name: share for name, share in shares.items() if share > 0}
        splits = {name: _good(examples) for name, examples in parts.items() if name != pool}
        if not shares:
            return {"train": _good(parts[pool]), **splits}
        items = [self._item(row, example) for row, example in zip(self.rows()[pool], parts[pool], strict=True)]
        names = carve(items, dict(reversed(shares.items())), self.split.seed)  # test first: it hangs on no dev
        for split in ("train", *shares):
            splits[split] = _good([e for e, name in zip(parts[pool], names, strict=True) if name == split])
        tied = f"{len(items):,} rows, up to {largest_tie(items):,} of them tied by texts or group"
        if empty := next((split for split in ("train", *shares) if not splits[split]), None):
            asked_for = ", ".join(f"{name} {share:g}" for name, share in shares.items())
            raise DataError(
                f"task '{self.name}': carving left {empty} without rows: {tied}, in shares of {asked_for}; give others "
                "in split, or files in data"
            )
        sizes = ", ".join(f"{split} {len(splits[split]):,}" for split in PARTS if split in splits)
        self._note(f"{' and '.join(shares)} carved with seed {self.split.seed}: {sizes}{self._how_carved()}")
        short = [name for name, share in shares.items() if names.count(name) < share * len(items) / 2]
        if short:
            said = " and ".join(f"{name} {names.count(name):,} of {shares[name] * len(items):,.0f}" for name in short)
            self._note(f"warning: carved less than half of the rows asked for: {said}; there are {tied}")
        self._note_missing_classes(shares, {name: splits[name] for name in ("train", *shares)})
        return {split: splits[split] for split in PARTS if split in splits}

    def _item(self, row: Row, example: Example | None) -> Item:
        if self.split.stratify is True:
            return Item(row.texts, row.group, None if example is None else example.label)
        return Item(row.texts, row.group, row.stratum)

    def _how_carved(self) -> str:
        by = self.layout.label if self.split.stratify is True else self.split.stratify
        strata = f"; in proportion by '{by}'" if by else ""
        group = f" or '{self.split.group}'" if self.split.group else ""
        return f"{strata}; rows of one text{group} stay together"

    def _note_missing_classes(self, shares: Mapping[str, float], splits: Mapping[str, Sequence[Example]]) -> None:
        """Says of which classes a carved split has no row, where carving in proportion would have given it one."""
        if self.split.stratify or not self.stratified:
            return
        names: Sequence[str] = getattr(self.target, "names", ())
        found = {split: Counter(row.label for row in rows) for split, rows in splits.items()}
        rows = [sum(counts[label] for counts in found.values()) for label in range(len(names))]
        missing = {
            split: [names[label] for label, count in enumerate(rows) if not found[split][label] and count * share >= 1]
            for split, share in shares.items()
        }
        said = "; ".join(f"no {split} row of {some(labels)}" for split, labels in missing.items() if labels)
        if said:
            self._note(f"{said}: split = {{ stratify = true }} carves in proportion")

    def _note_unlearnt(self, train: Sequence[Example]) -> None:
        """Warns of classes that no training row has; not of tags, some of which are made up to go with others."""
        names: Sequence[str] = () if self.kind == "tags" else getattr(self.target, "names", ())
        there = {label for row in train for label in (row.label if isinstance(row.label, tuple) else [row.label])}
        missing = [name for index, name in enumerate(names) if index not in there]
        if missing:
            self._note(f"warning: no train row of {some(missing)}: what is in no training row is not learnt")

    def _check_metric(self, rows: Sequence[Example]) -> None:
        """Refuses a main metric that the target has not, before anything is trained."""
        metric = self._given["metric"]
        if metric is not None:
            labels = [row.label for row in rows][:64]
            known = self.target.metrics([Prediction(label, label, 1.0) for label in labels], labels)
            if metric not in known:
                raise ConfigError(
                    f"task '{self.name}': metric: no '{metric}' for {self.kind}{did_you_mean(metric, known)}"
                )


def _good(examples: Sequence[Example | None]) -> tuple[Example, ...]:
    return tuple(example for example in examples if example is not None)


def _labels(files: Sequence[Path]) -> dict[Path, str]:
    """A short name of each file, unlike the others': its stem, else its name, else its path from where they part."""
    for names in ([file.stem for file in files], [file.name for file in files]):
        if len(set(names)) == len(files):
            return dict(zip(files, names, strict=True))
    shared = os.path.commonpath([file.absolute().parent for file in files])
    return {file: file.absolute().relative_to(shared).as_posix() for file in files}


def _renamed(row: Row, id: str) -> Row:
    return Row(row.place, row.file, row.line, id, row.texts, row.raw, row.group, row.stratum)
