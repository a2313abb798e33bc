"""Whole-split predictions and metrics, and the aggregate score."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch

from mtk import plugins
from mtk.data import MicroBatch, TaskRows, TaskSlice, evaluation_batches, fuse
from mtk.device import Hardware
from mtk.errors import DataError
from mtk.interfaces import Head, Prediction, Task
from mtk.model import MultitaskModel


@dataclass(frozen=True)
class Scores:
    """Metrics by task, and the plain mean of the tasks' primary metrics."""

    tasks: dict[str, dict[str, float]]
    primary: dict[str, str]

    @property
    def aggregate(self) -> float:
        return sum(self.tasks[name][metric] for name, metric in self.primary.items()) / len(self.primary)

    def pick(self, select_on: str) -> float:
        """`aggregate`, `TASK` (its primary metric) or `TASK.METRIC`."""
        if select_on == "aggregate":
            return self.aggregate
        name, _, metric = select_on.partition(".")
        return self.tasks[name][metric or self.primary[name]]

    @property
    def undefined(self) -> dict[str, str]:
        """The primary metrics that are no finite number, by task: a correlation where all predictions are equal."""
        return {name: metric for name, metric in self.primary.items() if not math.isfinite(self.tasks[name][metric])}

    def to_dict(self) -> dict[str, Any]:
        return {"aggregate": self.aggregate, "tasks": self.tasks, "primary": self.primary}


def predict(model: MultitaskModel, name: str, rows: TaskRows, hardware: Hardware) -> list[Prediction]:
    """One prediction a row, in the rows' order. Batches are sorted by length; dropout is off."""
    return predict_together(model, {name: rows}, hardware)[name]


def predict_together(
    model: MultitaskModel, rows: Mapping[str, TaskRows], hardware: Hardware
) -> dict[str, list[Prediction]]:
    """Predictions of several tasks for the *same* texts, tokenised alike: the encoder runs once for all of them."""
    first = next(iter(rows))
    out: dict[str, list[Prediction | None]] = {name: [None] * len(part) for name, part in rows.items()}
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), hardware.computing(), hardware.autocast():
            for chosen in evaluation_batches(rows[first]):
                batch = fuse({first: rows[first]}, {first: chosen}, model.encoder.tokenizer.pad_id, views=False)
                part, width = batch.slices[first], batch.tokens.ids.shape[1]
                slices = {}
                for name, own in rows.items():
                    targets = own.target.collate([own.labels[i] for i in chosen], width)
                    slices[name] = TaskSlice(part.start, part.stop, part.copies, targets)
                batch = MicroBatch(batch.tokens, slices, batch.lengths).to(hardware.torch_device)
                for name, outputs in model(batch).items():
                    answers = model.head(name).predict(outputs, batch.slices[name].targets)
                    _check_predictions(answers, len(chosen), model.head(name), name)
                    for row, answer in zip(chosen.tolist(), answers, strict=True):
                        out[name][row] = rows[name].target.complete(answer, rows[name].examples[row])
    finally:
        model.train(training)
    return {name: [answer for answer in answers if answer is not None] for name, answers in out.items()}


def _check_predictions(answers: Any, rows: int, head: Head, name: str) -> None:
    call, expected = f"predict of task '{name}'", f"{rows} predictions"
    if not isinstance(answers, Sequence):
        raise plugins.wrong(head, call, expected, type(answers).__name__)
    if len(answers) != rows:
        raise plugins.wrong(head, call, expected, len(answers))
    for answer in answers:
        if not isinstance(answer, Prediction):
            raise plugins.wrong(head, call, "Predictions", type(answer).__name__)


def same_tokens(rows: Mapping[str, TaskRows]) -> list[dict[str, TaskRows]]:
    """The tasks in groups whose rows are the same tokens in the same order, such as label columns of one file."""
    groups: dict[bytes, dict[str, TaskRows]] = {}
    for name, own in rows.items():
        digest = hashlib.sha256()
        for part in own.parts:
            for array in (part.ids, part.types, part.offsets):
                digest.update(array.tobytes())
        groups.setdefault(digest.digest(), {})[name] = own
    return list(groups.values())


def score(task: Task, rows: TaskRows, predictions: list[Prediction]) -> dict[str, float]:
    """The task's metrics over its labelled rows. Raises DataError where no row has a label."""
    labelled = [(p, e.label) for p, e in zip(predictions, rows.examples, strict=True) if e.label is not None]
    if not labelled:
        raise DataError(f"task '{task.name}': none of the {len(rows)} rows has a label, so there is nothing to score")
    metrics = task.metrics([p for p, _ in labelled], [y for _, y in labelled])
    if not isinstance(metrics, Mapping) or not isinstance(metrics.get(task.primary), Real):
        raise plugins.wrong(task, f"metrics of task '{task.name}'", f"numbers by name, with '{task.primary}'", metrics)
    return metrics


def evaluate(
    model: MultitaskModel, tasks: Mapping[str, Task], rows: Mapping[str, TaskRows], hardware: Hardware
) -> Scores:
    """Scores of every task that has rows. Tasks whose rows are the same tokens share one encoder pass."""
    predictions: dict[str, list[Prediction]] = {}
    for alike in same_tokens(rows):
        predictions |= predict_together(model, alike, hardware)
    found = {name: score(tasks[name], part, predictions[name]) for name, part in rows.items()}
    return Scores(found, {name: tasks[name].primary for name in found})
