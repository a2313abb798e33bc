"""What there is to know of rows before training: counts, lengths, bad rows, duplicates, leaks. Prints nothing."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mtk.errors import DataError, PluginError
from mtk.interfaces import Example, Task, Tokenizer
from mtk.rows import examples_of

SPLITS = ("train", "dev", "test")
_WORD = re.compile(r"[^\W_]+")
_NO_LETTERS = bytes(set(range(256)) - set(b"abcdefghijklmnopqrstuvwxyz0123456789"))
_NO_LIMIT = 1 << 20  # tokens


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Five points of a distribution."""

    min: float
    median: float
    mean: float
    p95: float
    max: float


@dataclass(frozen=True, slots=True)
class SplitReport:
    """One split. labels: rows per class, or per value where values are few; values: of labels that are numbers.

    lengths: in tokens or words, both texts of a pair together. bad: the rows left out, with file and line. duplicates:
    groups of ids whose texts are the same but for case, punctuation and the order of a pair; contradictions: those of
    them whose labels differ. first_labels: of the rows in `first`, by their names.
    """

    task: str
    split: str
    origin: str
    rows: int
    unlabelled: int
    labels: dict[str, int] | None
    values: Quantiles | None
    lengths: Quantiles | None
    bad: list[str]
    duplicates: list[list[str]]
    contradictions: list[list[str]]
    first: list[Example]
    first_labels: list[str | None]


@dataclass(frozen=True, slots=True)
class Leak:
    """Rows of a held-out split whose texts also stand in another split, by id."""

    task: str
    split: str
    rows: int
    other_task: str
    other_split: str
    ids: list[str]


@dataclass(frozen=True, slots=True)
class DataReport:
    """All splits that could be read, what leaks between them, and a line for each split that could not be read.

    unit: what lengths count, `tokens` or `words`.
    """

    unit: str
    splits: list[SplitReport] = field(default_factory=list)
    leaks: list[Leak] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def check_data(tasks: Sequence[Task], tokenizer: Tokenizer | None = None, first: int = 3) -> DataReport:
    """Reads every split of the tasks and looks at it. Raises nothing of the data's faults: they are in the report.

    tokenizer: an encoder's, for lengths in tokens; None counts words. first: how many parsed rows to show.
    """
    report = DataReport("words" if tokenizer is None else "tokens")
    keys: dict[tuple[str, str], dict[Hashable, list[str]]] = {}
    for task in tasks:
        for split, rows in _read(task, report).items():
            groups: dict[Hashable, list[Example]] = defaultdict(list)
            for row in rows:
                groups[normalised(row)].append(row)
            keys[task.name, split] = {key: [row.id for row in group] for key, group in groups.items()}
            report.splits.append(_look(task, split, rows, list(groups.values()), tokenizer, first))
    report.leaks.extend(_leaks(keys))
    return report


def normalised(row: Example) -> Hashable:
    """A row's texts without case and punctuation, a pair's in sorted order: equal means `the same rows`."""
    texts = [row.text] if row.pair is None else [row.text, row.pair]
    return tuple(sorted(" ".join(_WORD.findall(text.lower())) or text.strip() for text in texts))


def leaks_between(train: Mapping[str, Sequence[Example]], dev: Mapping[str, Sequence[Example]]) -> list[Leak]:
    """The dev rows of each task that stand in another task's training rows, as `check_data` compares them.

    Costs some microseconds a row, for few are normalised: those whose letters some dev row has.
    """
    known = {_rough(row) for rows in dev.values() for row in rows} if len(dev) > 1 else set()
    trained = {name: {normalised(row) for row in rows if _rough(row) in known} for name, rows in train.items()}
    leaks = []
    for name, rows in dev.items():
        others = {other: seen for other, seen in trained.items() if seen and other != name}
        keys = [normalised(row) for row in rows] if others else []
        for other, seen in others.items():
            ids = [row.id for row, key in zip(rows, keys, strict=True) if key in seen]
            if ids:
                leaks.append(Leak(name, "dev", len(rows), other, "train", ids))
    return leaks


def _rough(row: Example) -> int:
    """A hash of the ASCII letters and digits: equal for rows that are equal when normalised, in a third of the time."""
    own = hash(_letters(row.text))
    return own if row.pair is None else own ^ hash(_letters(row.pair))


def _letters(text: str) -> bytes:
    return text.lower().encode("utf-8", "surrogatepass").translate(None, _NO_LETTERS)


def _read(task: Task, report: DataReport) -> dict[str, Sequence[Example]]:
    """The rows of the splits that can be read; `test` may be absent."""
    rows: dict[str, Sequence[Example]] = {}
    try:
        files = task.source.files
    except DataError as error:
        report.errors.append(str(error))
        return rows
    for split in SPLITS:
        if split == "test" and split not in files:
            continue
        try:
            rows[split] = examples_of(task, split)
        except (DataError, PluginError) as error:
            if str(error) not in report.errors:  # one fault keeps all splits of a file from being read
                report.errors.append(str(error))
    return rows


def _look(
    task: Task,
    split: str,
    rows: Sequence[Example],
    groups: list[list[Example]],
    tokenizer: Tokenizer | None,
    shown: int,
) -> SplitReport:
    own = _files_of(task, split)
    first = next(name for name in (*SPLITS, split) if _files_of(task, name) == own)  # of splits carved out of one file
    # A task that leaves rows out lists them in `bad`; `str` of each names file and line.
    bad = [row for row in task.bad if split == first and (not own or getattr(row, "file", own[0]) in own)]
    labels = [row.label for row in rows if row.label is not None]
    repeated = [group for group in groups if len(group) > 1]
    differ = [group for group in repeated if len({str(r.label) for r in group if r.label is not None}) > 1]
    return SplitReport(
        task.name,
        split,
        str(own[0] if len(own) == 1 else task.source.origin),
        len(rows),
        len(rows) - len(labels),
        *_labels(task, labels),
        quantiles(_lengths(rows, tokenizer)),
        [str(row) for row in bad],
        [[row.id for row in group] for group in repeated],
        [[row.id for row in group] for group in differ],
        list(rows[:shown]),
        [None if row.label is None else label_text(task, row.label) for row in rows[:shown]],
    )


def label_text(task: Task, label: object) -> str:
    """A parsed label for people: names for indices, `5` for 5.0."""
    names = getattr(task.target, "names", None)
    if isinstance(label, tuple):
        return ", ".join(label_text(task, one) for one in label)
    if names is not None and isinstance(label, int):
        return str(names[label])
    return f"{label:g}" if isinstance(label, float) else str(label)


def _files_of(task: Task, split: str) -> list[Path]:
    """The files of a split: `train`, `train 2` and so on."""
    return [file for key, file in task.source.files.items() if key.partition(" ")[0] == split]


def _labels(task: Task, labels: Sequence[object]) -> tuple[dict[str, int] | None, Quantiles | None]:
    """Rows per class for a target with names (of several a row: how often each), quantiles for numbers, rows per value
    for other few values."""
    names = getattr(task.target, "names", None)
    if not labels:
        return None, None
    if names is not None and all(isinstance(label, int) for label in labels):
        counts = Counter(labels)
        return {name: counts[i] for i, name in enumerate(names)}, None
    if names is not None and all(isinstance(label, tuple) for label in labels):
        counts = Counter(index for label in labels if isinstance(label, tuple) for index in label)
        return {name: counts[i] for i, name in enumerate(names)}, None
    numbers = [float(label) for label in labels if isinstance(label, (int, float))]
    if len(numbers) == len(labels):
        return None, quantiles(numbers)
    shown = Counter(str(label) for label in labels)
    return (dict(shown.most_common()) if len(shown) <= 50 else None), None


def _lengths(rows: Sequence[Example], tokenizer: Tokenizer | None) -> list[float]:
    if tokenizer is None:
        return [float(len(row.text.split()) + len((row.pair or "").split())) for row in rows]
    encodings = tokenizer.encode([(row.text, row.pair) for row in rows], _NO_LIMIT)
    return [float(len(encoding.ids)) for encoding in encodings]


def quantiles(values: Sequence[float]) -> Quantiles | None:
    """Nearest-rank quantiles; None of nothing."""
    if not values:
        return None
    ordered, last = sorted(values), len(values) - 1
    mean = sum(ordered) / len(ordered)
    return Quantiles(ordered[0], ordered[round(last * 0.5)], mean, ordered[round(last * 0.95)], ordered[-1])


def _leaks(keys: dict[tuple[str, str], dict[Hashable, list[str]]]) -> list[Leak]:
    """Rows of dev and test that stand in an earlier split of their task, or in another task's train."""
    leaks = []
    for (task, split), held in keys.items():
        total = sum(map(len, held.values()))
        for (other, other_split), rows in keys.items():
            earlier = task == other and SPLITS.index(other_split) < SPLITS.index(split)
            elsewhere = task != other and other_split == "train" and split != "train"
            if not (earlier or elsewhere):
                continue
            ids = [id for key, group in held.items() if key in rows for id in group]
            if ids:
                leaks.append(Leak(task, split, total, other, other_split, ids))
    return leaks
