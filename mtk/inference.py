"""Using a trained run: predictions, scores, and all tasks of one text in one encoder pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtk import plugins
from mtk.assembly import build_heads
from mtk.checkpoint import load_encoder, load_heads, read_description
from mtk.config import RunConfig, TrainConfig
from mtk.data import TaskRows, tokenise
from mtk.device import Hardware, choose
from mtk.errors import DataError, did_you_mean
from mtk.evaluation import Scores, predict, predict_together, score
from mtk.interfaces import Example, Prediction, Task, TaskContext
from mtk.model import MultitaskModel
from mtk.run import RunFolder

Row = str | Sequence[str] | Mapping[str, str] | Example


class TrainedModel:
    """A run's best model with its tasks. `model` and `tasks` are open to use; nothing here trains."""

    def __init__(self, config: RunConfig, tasks: Mapping[str, Task], model: MultitaskModel, hardware: Hardware) -> None:
        self.config = config
        self.tasks = dict(tasks)
        self.model = model
        self.hardware = hardware

    def predict(self, task: str, rows: Iterable[Row]) -> list[Prediction]:
        """One prediction a row. A row is a text, a (text, text) pair, a mapping by the task's columns, or an Example.

        Raises DataError for an unknown task, an empty text, or a row without (or with needless) second text.
        """
        examples = [self._example(task, number, row) for number, row in enumerate(rows, 1)]
        return predict(self.model, task, self._tokenise(task, examples), self.hardware) if examples else []

    def predict_all(self, rows: Iterable[Row], tasks: Sequence[str] | None = None) -> list[dict[str, Prediction]]:
        """Every task's prediction for each row; tasks that read alike share one encoder pass.

        tasks: default all whose number of texts is that of the rows (one text, or two).
        """
        rows = list(rows)
        if not rows:
            return []
        paired = not isinstance(rows[0], str) and self._second(rows[0]) is not None
        names = [n for n, t in self.tasks.items() if t.paired == paired] if tasks is None else list(tasks)
        if not names:
            raise DataError(
                f"no task of this run reads {'two texts' if paired else 'one text'}: {', '.join(self.tasks)}"
            )
        groups: dict[tuple[str, bool], list[str]] = {}
        for name in names:
            groups.setdefault((self.model.head(name).reads, self._task(name).paired), []).append(name)
        out: list[dict[str, Prediction]] = [{} for _ in rows]
        for group in groups.values():
            examples = [self._example(group[0], number, row) for number, row in enumerate(rows, 1)]
            tokens = {name: self._tokenise(name, examples) for name in group}
            for name, predictions in predict_together(self.model, tokens, self.hardware).items():
                for answers, prediction in zip(out, predictions, strict=True):
                    answers[name] = prediction
        return [{name: answers[name] for name in names} for answers in out]

    def evaluate(
        self, split: str = "dev", *, data: str | Path | None = None, tasks: Sequence[str] | None = None
    ) -> Scores:
        """Scores on a split of the run's data, of another data folder, or on one file of one task's format."""
        source = None if data is None else Path(data)
        found = {}
        for name in tasks or self.tasks:
            task = self._task(name)
            if source is not None and not source.is_dir():
                examples = task.read(source)
            else:
                examples = self.at(name, source).examples(split)
            rows = self._tokenise(name, examples)
            found[name] = score(task, rows, predict(self.model, name, rows, self.hardware))
        return Scores(found, {name: self.tasks[name].primary for name in found})

    def at(self, name: str, folder: Path | None = None) -> Task:
        """The task with its rows taken from `folder`; without it, from where the run took them."""
        if folder is None:
            return self._task(name)
        choice = self.config.tasks[name]
        task: Task = plugins.build("task", choice.name, TaskContext(name, folder), **choice.options)
        return task

    def _task(self, name: str) -> Task:
        if name not in self.tasks:
            raise DataError(f"the run has no task '{name}'{did_you_mean(name, self.tasks)}")
        return self.tasks[name]

    def _tokenise(self, name: str, examples: Sequence[Example]) -> TaskRows:
        task, length = self._task(name), self.config.data.max_length
        return tokenise(self.model.encoder, self.model.head(name), task.paired, examples, length)

    def _second(self, row: Row) -> str | None:
        if isinstance(row, Example):
            return row.pair
        if isinstance(row, Mapping):
            return next((row[t.columns[1]] for t in self.tasks.values() if t.paired and t.columns[1] in row), None)
        return row[1] if len(row) > 1 else None

    def _example(self, name: str, number: int, row: Row) -> Example:
        task = self._task(name)
        wanted = " and ".join(task.columns)
        if isinstance(row, Example):
            texts = [row.text] if row.pair is None else [row.text, row.pair]
        elif isinstance(row, Mapping):
            missing = [column for column in task.columns if row.get(column) is None]
            if missing:
                raise DataError(f"row {number}: task '{name}' needs {wanted}, but {missing[0]} is missing")
            texts = [row[column] for column in task.columns]
        else:
            texts = [row] if isinstance(row, str) else list(row)
        if len(texts) != (2 if task.paired else 1):
            raise DataError(f"row {number}: task '{name}' reads {wanted}, found {len(texts)} text(s)")
        if any(not isinstance(text, str) or not text.strip() for text in texts):
            raise DataError(f"row {number}: task '{name}' needs {wanted}, but a text is empty")
        identity = row.id if isinstance(row, Example) else str(number)
        return Example(identity, texts[0].strip(), texts[1].strip() if task.paired else None)


def load(
    run: str | Path, *, device: str = "auto", threads: int | None = None, data: str | Path | None = None
) -> TrainedModel:
    """The best model of a run folder. Raises CheckpointError for a damaged, foreign or unfinished one.

    data: a folder to take rows from instead of the run's own.
    """
    folder = RunFolder.open(Path(run))
    config = folder.config
    facts = folder.facts
    precision = facts.get("hardware", {}).get("precision", "fp32")
    hardware = choose(TrainConfig(device=device, precision=precision, threads=threads))  # type: ignore[arg-type]
    best = folder.best
    read_description(best)
    place = Path(data) if data is not None else Path(config.data.folder) if config.data.folder else None
    used_sample = any(entry.get("sample") for entry in facts.get("data", {}).values())
    tasks: dict[str, Task] = {
        name: plugins.build(
            "task",
            choice.name,
            TaskContext(name, place, "always" if used_sample and data is None else "never"),
            **choice.options,
        )
        for name, choice in config.tasks.items()
    }
    encoder = load_encoder(best)
    model = MultitaskModel(encoder, build_heads(config, tasks, encoder.hidden_size))
    load_heads(best, model.heads)
    return TrainedModel(config, tasks, model.to(hardware.torch_device).eval(), hardware)


def to_json(prediction: Prediction) -> dict[str, Any]:
    """label, score and, where there are classes, probabilities."""
    out: dict[str, Any] = {"label": prediction.label, "score": round(prediction.score, 6)}
    if prediction.probabilities is not None:
        out["probabilities"] = {name: round(p, 6) for name, p in prediction.probabilities.items()}
    return out
