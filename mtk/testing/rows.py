"""Checks of tasks and augmentations."""

from __future__ import annotations

import contextlib
import json
import math
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

from mtk import plugins
from mtk.errors import ConfigError, DataError, MTKError
from mtk.interfaces import Augmentation, Example, Prediction, Source, Target, Task, TaskContext
from mtk.targets import Classes, Range
from mtk.targets.labels import is_label
from mtk.testing.randomness import global_seed, seeded

ROWS = 500  # as many rows of a split are looked at


def check_task(make: Callable[[TaskContext], Task], data: Path | None = None) -> None:
    """A task's rows: the same at every call, with unique ids, texts, and labels inside the target; and its metrics.

    make: builds one from a TaskContext, here with a sample allowed. data: a data folder. Raises AssertionError.
    """
    context = TaskContext("conformance", data, sample="fallback")
    task, again = make(context), make(context)
    assert task.name == "conformance", f"expected the context's name, found '{task.name}'"
    assert isinstance(task.source, Source) and task.source.origin, "source: expected an origin to show to the user"
    assert len(task.columns) == 1 + task.paired, f"columns: {task.columns} of a task with paired = {task.paired}"
    assert task.weight >= 0, f"weight: expected >= 0, found {task.weight}"
    plugins.find("head", task.default_head)
    for split in ("train", "dev") if task.trained else ("dev",):
        rows = task.examples(split)
        assert pickle.loads(pickle.dumps(list(rows))) == list(rows), f"{split}: pickled, the rows differ"
        assert rows, f"{split}: no rows"
        assert list(task.examples(split)) == list(rows), f"{split}: another call gives other rows"
        assert list(again.examples(split)) == list(rows), f"{split}: another instance gives other rows"
        check_rows(rows, task.target, task.paired, split)
        assert any(row.label is not None for row in rows), f"{split}: no row has a label"
    with contextlib.suppress(DataError):  # a task may have no test rows
        check_rows(task.examples("test"), task.target, task.paired, "test")
    _check_metrics(task)
    _check_read(task)
    _check_refusals(make, task)


def _check_refusals(make: Callable[[TaskContext], Task], task: Task) -> None:
    """A split that no task has is refused, and a folder that is not there, unless the task needs none."""
    nowhere = Path("no", "such", "folder")
    with contextlib.suppress(DataError, ConfigError):
        assert not task.examples("no-such-split"), "expected DataError for a split that there is not, found rows"
    for context in (TaskContext("conformance", nowhere), TaskContext("conformance")):
        try:
            assert make(context).examples("dev")
        except MTKError as error:
            told = "\n" not in str(error) and (context.data is None or str(nowhere) in str(error))
            assert told, f"expected one line that names what is missing, found: {error}"


def check_rows(rows: Sequence[Example], target: Target, paired: bool, place: str) -> None:
    """Unique ids, texts that are not empty, pairs where `paired`, labels of the target. Raises AssertionError."""
    seen: set[str] = set()
    for row in rows:
        assert isinstance(row.id, str) and row.id, f"{place}: expected an id, found {row.id!r}"
        assert row.id not in seen, f"{place}: id '{row.id}' comes twice"
        seen.add(row.id)
        texts = [row.text, row.pair] if paired else [row.text]
        sound = all(isinstance(text, str) and text.strip() for text in texts) and (paired or row.pair is None)
        assert sound, f"{place}, row '{row.id}': expected {'two texts' if paired else 'one text'}, found {row}"
    labelled = [row for row in rows if row.label is not None][:ROWS]
    for row in labelled:
        assert is_label(target, row.label), f"{place}, row '{row.id}': label {row.label!r} is not parsed"
        try:
            target.check(row)
        except ValueError as error:
            raise AssertionError(f"{place}, row '{row.id}': {error}") from None
    aligned = [target.align(row.label, range(len(row.text.split()))) for row in labelled]
    length = max((len(row.text.split()) for row in labelled), default=1)
    count = target.collate(aligned, length).count if labelled else 1
    assert count > 0, f"{place}: no label counts"


def _check_metrics(task: Task) -> None:
    """Perfect predictions of the dev split have finite figures, the primary one among them."""
    labels = [row.label for row in task.examples("dev") if row.label is not None][:ROWS]
    metrics = task.metrics([Prediction(label, label, 1.0) for label in labels], labels)
    assert task.primary in metrics, f"metrics: expected '{task.primary}' (primary) among {sorted(metrics)}"
    assert all(math.isfinite(value) for value in metrics.values()), f"metrics: expected finite figures, found {metrics}"
    for label in labels[:1]:
        alone = task.metrics([Prediction(label, label, 1.0)], [label])
        assert task.primary in alone, f"metrics: expected '{task.primary}' of a single row too, found {sorted(alone)}"


def _check_read(task: Task) -> None:
    """`read` gives the texts of the task's own dev file, where the task has a file and reads any."""
    file = task.source.files.get("dev")
    if file is None or type(task).read is Task.read:
        return
    found = [(row.text, row.pair) for row in task.read(file)]
    wanted = [(row.text, row.pair) for row in task.examples("dev")]
    carved = list(task.source.files.values()).count(file) > 1  # several splits come out of one file
    fits = set(wanted) <= set(found) if carved else found == wanted
    assert fits, f"read({file.name}): {len(found)} rows, other than the {len(wanted)} of the dev split"


class ToyRows(Task):
    """A few rows held in memory, for augmentations."""

    def __init__(self, target: Target, labels: Sequence[float], *, paired: bool) -> None:
        super().__init__(TaskContext("toy"))
        self.target, self.paired = target, paired
        self.columns = ("sentence1", "sentence2") if paired else ("sentence",)
        pair = "Somebody saw a very big dog there." if paired else None
        text = "Nobody knows how the small black cat got over the old garden wall"
        self._rows = [Example(f"row-{i}", f"{text} {i}", pair, label) for i, label in enumerate(labels)]

    @property
    def source(self) -> Source:
        return Source("toy rows", sample=True)

    def examples(self, split: str) -> Sequence[Example]:
        return list(self._rows)


def check_augmentation(make: Callable[[], Augmentation], tasks: Sequence[Task] = ()) -> None:
    """An augmentation's rows: repeated under a seed, sound for the task, none from none, and the given ones untouched.

    make: builds one. tasks: in place of a single, a paired and a range toy task, of which it may refuse (ConfigError)
    all but one. Raises AssertionError.
    """
    usual = [
        ToyRows(Classes(["no", "yes"]), [0, 1, 1, 0], paired=False),
        ToyRows(Classes(["no", "yes"]), [0, 1, 1, 0], paired=True),
        ToyRows(Range(0, 5), [0.0, 5.0, 2.5, 1.0], paired=True),
    ]
    refused = []
    for task in tasks or usual:
        rows = task.examples("train")
        before = list(rows)
        try:
            with global_seed(1):
                first = list(make()(task, rows, seeded(0)))
        except ConfigError as error:
            refused.append(str(error))
            continue
        assert list(rows) == before, "the given rows were changed"
        with global_seed(2):
            assert list(make()(task, rows, seeded(0))) == first, "the same seed gives other rows: draw from `generator`"
        place = f"augmented rows of a task of {type(task.target).__name__}, paired = {task.paired}"
        check_rows(first, task.target, task.paired, place)
        check_rows(list(make()(task, rows[:1], seeded(0))), task.target, task.paired, place)
        make()(task, [], seeded(0))
        json.dumps([row.label for row in first])
    assert len(refused) < len(tasks or usual), f"the augmentation refuses every task: {'; '.join(refused)}"
