"""Using a trained run: predictions, scores, and all tasks of one text in one encoder pass."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mtk import plugins
from mtk.assembly import build_heads, build_projection, head_inputs, is_trained, loss_weight
from mtk.checkpoint import check_head, load_encoder, load_heads, read_description, read_tensors
from mtk.config import RunConfig, TrainConfig
from mtk.data import MicroBatch, TaskRows, evaluation_batches, fuse, tokenise
from mtk.device import Hardware, choose
from mtk.errors import CheckpointError, ConfigError, DataError, MTKError, NoRowsError, PluginError, did_you_mean
from mtk.evaluation import Scores, evaluate, predict, predict_together, same_tokens, score
from mtk.interfaces import Encoder, Example, Head, Prediction, Source, Task, TaskContext
from mtk.model import MultitaskModel
from mtk.rows import Row, can_read, checked_rows, examples_of, found_in, numbered, to_example, wanted_by
from mtk.run import RunFolder, carved, data_facts, file_difference, sha256, split_files, version_difference, why_missing


@dataclass(frozen=True)
class SplitRows:
    """Rows with labels, where they come from, and what was left out of them (file, line and reason)."""

    source: Source
    examples: Sequence[Example]
    bad: list[str]


class TrainedModel:
    """A run's best model with its tasks. `model` and `tasks` are open to use; nothing here trains.

    left_out: the run's other tasks, each with the reason: a plugin that is not installed, or broken.
    data: where every task's rows came from in training, as run.json has it; evaluation warns of other files.
    """

    def __init__(
        self,
        config: RunConfig,
        tasks: Mapping[str, Task],
        model: MultitaskModel,
        hardware: Hardware,
        left_out: Mapping[str, str] | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        self.config = config
        self.tasks = dict(tasks)
        self.model = model
        self.hardware = hardware
        self.left_out = dict(left_out or {})
        self.data = dict(data or {})

    def predict(self, task: str, rows: Iterable[Row]) -> list[Prediction]:
        """One prediction a row. A row is a text, a (text, text) pair, a mapping by the task's columns, or an Example.

        Raises DataError for an unknown task, an empty text, or a row without (or with needless) second text.
        """
        chosen = self._task(task)
        examples = [to_example(chosen, number, row) for number, row in numbered(rows)]
        return predict(self.model, task, self._tokenise(task, examples), self.hardware) if examples else []

    def predict_all(self, rows: Iterable[Row], tasks: Sequence[str] | None = None) -> list[dict[str, Prediction]]:
        """Every task's prediction for each row, in one encoder pass for all tasks that read the same sequences.

        tasks: default all that can read the first row: by its number of texts, or a mapping by its columns. Raises
            DataError where there is none, or where a row is unlike the first.
        """
        rows_given = numbered(rows)
        names = list(self.tasks) if tasks is None else list(dict.fromkeys(tasks))
        chosen = {name: self._task(name) for name in names}
        if not rows_given:
            return []
        if tasks is None:
            first = rows_given[0][1]
            chosen = {name: task for name, task in chosen.items() if can_read(task, first)}
            if not chosen:
                wanted = ", ".join(f"'{name}' reads {wanted_by(task)}" for name, task in self.tasks.items())
                raise DataError(f"row 1: no task of this run can read it, found {found_in(first)}; {wanted}")
        groups: dict[tuple[bool, tuple[Example, ...]], list[str]] = {}
        for name, task in chosen.items():
            examples = tuple(to_example(task, number, row) for number, row in rows_given)
            two_sequences = task.paired and self.model.head(name).reads == "bi"
            groups.setdefault((two_sequences, examples), []).append(name)
        out: list[dict[str, Prediction]] = [{} for _ in rows_given]
        for (_, examples), group in groups.items():
            tokens = {name: self._tokenise(name, examples) for name in group}
            for alike in same_tokens(tokens):
                for name, predictions in predict_together(self.model, alike, self.hardware).items():
                    for answers, prediction in zip(out, predictions, strict=True):
                        answers[name] = prediction
        return [{name: answers[name] for name in chosen} for answers in out]

    def evaluate(
        self, split: str = "dev", *, data: str | Path | None = None, tasks: Sequence[str] | None = None
    ) -> Scores:
        """Scores on a split of the run's data, of another data folder, or on one file of one task's format.

        Warns and raises as `examples` does.
        """
        names = list(self.tasks) if tasks is None else list(dict.fromkeys(tasks))
        if not names:
            raise DataError(f"expected at least one task to evaluate; the run has {', '.join(self.tasks)}")
        if data is not None and len(names) > 1 and not Path(data).is_dir():
            found = "a file" if Path(data).exists() else "no such file or folder"
            raise DataError(
                f"{data}: expected a folder of data files, found {found}; a single file serves a single task: name it "
                f"(the run has {', '.join(names)})"
            )
        return self.scores({name: self.examples(name, split, data).examples for name in names})

    def examples(self, task: str, split: str = "dev", data: str | Path | None = None) -> SplitRows:
        """The rows to score: of the run's data, another folder or one file.

        Warns where the split is carved from files other than those of the run: rows that it trained on may be among
        them. Raises NoRowsError where no row has a label, and DataError for one file that the task was trained from.
        """
        place = None if data is None else Path(data)
        if place is None or place.is_dir():
            reader = self.at(task, place)
            rows, source = examples_of(reader, split), reader.source
            files = [file.resolve() for file in source.files.values()]
            if place is not None and files and not any(file.is_relative_to(place.resolve()) for file in files):
                raise DataError(
                    f"{place}: no file of task '{task}', whose rows are in {source.origin}; give one of its"
                )
            where = f"the {split} split of {source.origin}"
            self._warn_of_others(reader, split)
        else:
            reader = self._task(task)
            self._refuse_trained(task, place)
            try:
                rows = checked_rows(reader.read(place), reader, reader, f"the rows of {place}")
                source = Source(str(place), {split: place})
            except NotImplementedError as error:
                raise DataError(f"{place}: {error}; give a folder of data files instead") from error
            where = str(place)
        if all(row.label is None for row in rows):
            raise NoRowsError(
                f"task '{task}': none of the {len(rows)} rows of {where} has a label, so there is nothing to score; "
                "predict them instead: mtk predict"
            )
        file = source.files.get(split)
        bad = [str(row) for row in reader.bad if file is None or getattr(row, "file", file) == file]
        return SplitRows(source, rows, bad)

    def _warn_of_others(self, task: Task, split: str) -> None:
        """Warns where a carved split's files are not those that the run carved it from."""
        before = split_files(self.data.get(task.name, {}), "train")
        if split == "train" or not before or not carved(task.source, split):
            return
        now = split_files(data_facts({task.name: task})[task.name], "train")
        if now != before:
            warnings.warn(
                f"task '{task.name}': {split} is carved from files other than those of the run "
                f"({file_difference(before, now)}); some of these rows may have been trained on",
                stacklevel=2,
            )

    def _refuse_trained(self, task: str, file: Path) -> None:
        """Raises DataError for a file that the task's training rows came from; warns of another of its name."""
        recorded = self.data.get(task, {})
        trained = split_files(recorded, "train")
        if not trained or recorded.get("sample") or not file.is_file():
            return
        same = next((one["file"] for one in trained if one["sha256"] == sha256(file)), None)
        if same is not None:
            raise DataError(
                f"{file}: task '{task}' was trained on rows of this file, so scores on all of it say little; give the "
                f"folder of {same} and a split instead"
            )
        if file.name in [one["file"] for one in trained]:
            warnings.warn(
                f"{file}: task '{task}' was trained on a file of this name, with other content; some of these rows "
                "may have been trained on",
                stacklevel=2,
            )

    def score(self, task: str, examples: Sequence[Example]) -> dict[str, float]:
        """The task's metrics over those of the rows that have labels. Raises DataError where none has."""
        labelled = [row for row in examples if row.label is not None]
        rows = self._tokenise(task, labelled)
        return score(self._task(task), rows, predict(self.model, task, rows, self.hardware) if labelled else [])

    def scores(self, examples: Mapping[str, Sequence[Example]]) -> Scores:
        """The tasks' scores over those of their rows that have labels, in one encoder pass for tasks of one set of
        texts. Raises DataError where a task's rows have none."""
        labelled = {_texts(row) for some in examples.values() for row in some if row.label is not None}
        kept = {name: [row for row in some if _texts(row) in labelled] for name, some in examples.items()}
        rows = {name: self._tokenise(name, some) for name, some in kept.items()}
        return evaluate(self.model, {name: self._task(name) for name in rows}, rows, self.hardware)

    @property
    def trained(self) -> list[str]:
        """The tasks that the run trained; the others were only evaluated."""
        return [name for name, task in self.tasks.items() if is_trained(self.config, task)]

    def weight(self, task: str) -> float:
        """What the task's loss counted in training."""
        return loss_weight(self.config, self._task(task))

    def batches(self, task: str, examples: Sequence[Example], max_tokens: int = 1024) -> Iterator[MicroBatch]:
        """The rows as training sees them, with all views and on the model's device, rows of like length together: for
        whoever wants losses or gradients of a trained model. max_tokens: of a padded batch, about."""
        rows, pad_id = self._tokenise(task, examples), self.model.encoder.tokenizer.pad_id
        copies = len(rows.parts) * rows.views
        for chosen in evaluation_batches(rows, max_tokens // copies):
            yield fuse({task: rows}, {task: chosen}, pad_id).to(self.hardware.torch_device)

    @property
    def of_sample(self) -> bool:
        """Whether any task's rows are the built-in sample's, whose scores mean nothing."""
        return any(task.context.sample == "always" for task in self.tasks.values())

    def at(self, name: str, folder: Path | None = None) -> Task:
        """The task with its rows taken from `folder`; without it, from where the run took them."""
        own = self._task(name)
        if folder is None:
            return own
        choice = self.config.tasks[name]
        task: Task = plugins.build("task", choice.name, TaskContext(name, folder), **choice.options)
        return task

    def _task(self, name: str) -> Task:
        if name in self.left_out:
            raise PluginError(f"task '{name}' is left out: {self.left_out[name]}")
        if name not in self.tasks:
            raise DataError(f"the run has no task '{name}'{did_you_mean(name, self.tasks)}")
        return self.tasks[name]

    def _tokenise(self, name: str, examples: Sequence[Example]) -> TaskRows:
        task, length = self._task(name), self.config.data.max_length
        return tokenise(self.model.encoder, self.model.head(name), task.paired, examples, length)


# ---------------------------------------------------------------------------------------------- a run from disk


def load(
    run: str | Path, *, device: str = "auto", threads: int | None = None, data: str | Path | None = None
) -> TrainedModel:
    """The best model of a run folder. Raises CheckpointError for a damaged, foreign or unfinished one.

    A task whose own plugin or head's is missing or broken, or does not fit what was trained, is in `left_out`, and a
    warning says which package to install; PluginError (CheckpointError) where that is all of them, or the encoder.
    Nothing but installed plugins is imported.
    device: auto, cpu, cuda or mps. threads: of the CPU; default torch's own.
    data: a folder to take rows from instead of the run's own.
    """
    folder = RunFolder.open(Path(run))
    config, facts = folder.config, folder.facts
    best = folder.best
    if not best.is_dir():
        status = facts.get("status", "unknown")
        if "best_epoch" in facts:
            raise CheckpointError(
                f"{best}: missing, though the run's epoch {facts['best_epoch']} was saved there; restore it"
            )
        raise CheckpointError(
            f"{run}: no best/ model yet: the run has not finished its first epoch (status: {status}); wait for it, or "
            f"go on with it: mtk train --resume {run}"
        )
    description = read_description(best)
    _check_shape(best, description)
    if other := version_difference(facts):
        warnings.warn(f"{folder.path}: the run {other}", stacklevel=2)
    left_out = _left_out(config, facts)
    tasks = _tasks(config, facts, None if data is None else Path(data), left_out)
    for name, task in tasks.items():
        with _fault_noted(name, left_out, config, facts):
            _check_labels(description, task)
    tasks = {name: task for name, task in tasks.items() if name not in left_out}
    hardware = _hardware(facts.get("hardware") or {}, device, threads)
    encoder = _encoder(folder, config, facts)
    heads = _heads(config, facts, best, tasks, encoder.hidden_size, left_out)
    if not heads:
        first = next(iter(left_out.values()))
        raise _of_kind(first, f"{folder.path}: {first}") from first
    for name, why in left_out.items():
        warnings.warn(f"{folder.path}: task '{name}' is left out: {why}", stacklevel=2)
    model = MultitaskModel(encoder, heads, build_projection(config, encoder.hidden_size))
    load_heads(best, model)
    tasks = {name: tasks[name] for name in heads}
    model = model.to(hardware.torch_device).eval()
    reasons = {name: str(why) for name, why in left_out.items()}
    return TrainedModel(config, tasks, model, hardware, reasons, facts.get("data"))


def _left_out(config: RunConfig, facts: Mapping[str, Any]) -> dict[str, MTKError]:
    """The tasks whose own plugin or head's is not here, and which package has it."""
    chosen = {n: [("task", c.name), *([("head", c.head.name)] if c.head else [])] for n, c in config.tasks.items()}
    missing = {name: [why_missing(facts, *one) for one in used] for name, used in chosen.items()}
    return {name: PluginError(next(filter(None, why))) for name, why in missing.items() if any(why)}


def _encoder(folder: RunFolder, config: RunConfig, facts: Mapping[str, Any]) -> Encoder:
    try:
        return load_encoder(folder.best)
    except PluginError as error:
        raise PluginError(f"{folder.path}: {why_missing(facts, 'encoder', config.encoder.name) or error}") from error


def _heads(
    config: RunConfig,
    facts: Mapping[str, Any],
    best: Path,
    tasks: Mapping[str, Task],
    hidden_size: int,
    left_out: dict[str, MTKError],
) -> dict[str, Head]:
    """The tasks' heads; one that cannot be built, or is another version's, goes into `left_out`."""
    heads: dict[str, Head] = {}
    saved = read_tensors(best / "heads.safetensors")
    for name, task in tasks.items():
        with _fault_noted(name, left_out, config, facts):
            built = build_heads(config, {name: task}, head_inputs(config, hidden_size))
            check_head(saved, name, built[name])
            heads |= built
    return heads


@contextmanager
def _fault_noted(
    name: str, left_out: dict[str, MTKError], config: RunConfig, facts: Mapping[str, Any]
) -> Iterator[None]:
    """Leaves out a task whose plugin fails, or does not fit the checkpoint (CheckpointError); one whose plugin is
    another version than the run's, on any MTKError."""
    try:
        yield
    except Exception as error:
        choice = config.tasks[name]
        own = {f"task {choice.name}", *([f"head {choice.head.name}"] if choice.head else [])}
        other = version_difference(facts, own)
        noted = isinstance(error, MTKError if other else CheckpointError)
        fault = error if noted else plugins.blamed(error)
        if not isinstance(fault, MTKError):
            raise
        left_out[name] = _of_kind(fault, f"{fault}; the run {other}" if other else str(fault))


def _of_kind(error: MTKError, text: str) -> MTKError:
    """What the caller of `load` gets for a fault of a task's plugin."""
    return CheckpointError(text) if isinstance(error, CheckpointError) else PluginError(text)


def _hardware(trained_on: Mapping[str, Any], device: str, threads: int | None) -> Hardware:
    """The run's precision where its device serves again, else float32: bf16 is slow on many another device."""
    try:
        found = choose(TrainConfig(device=device, precision="fp32", threads=threads))  # type: ignore[arg-type]
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"{problem['loc'][0]}: {problem['msg']}, found {problem['input']!r}") from error
    same = trained_on.get("device") == found.device
    return Hardware(found.device, trained_on.get("precision", "fp32") if same else "fp32", found.threads, found.matmul)


def _tasks(
    config: RunConfig, facts: Mapping[str, Any], data: Path | None, left_out: dict[str, MTKError]
) -> dict[str, Task]:
    """The tasks that are not in `left_out`; one that cannot be built goes there."""
    place = data or (Path(config.data.folder) if config.data.folder else None)
    tasks: dict[str, Task] = {}
    for name, choice in config.tasks.items():
        if name not in left_out:
            of_sample = data is None and facts.get("data", {}).get(name, {}).get("sample", False)
            context = TaskContext(name, place, "always" if of_sample else "never")
            with _fault_noted(name, left_out, config, facts):
                tasks[name] = plugins.build("task", choice.name, context, **choice.options)
    return tasks


def _check_shape(best: Path, description: Mapping[str, Any]) -> None:
    encoder, tasks = description.get("encoder"), description.get("tasks", {})
    sound = isinstance(encoder, dict) and isinstance(encoder.get("name"), str) and isinstance(tasks, dict)
    if not (sound and isinstance((encoder or {}).get("options"), dict)):
        raise CheckpointError(f"{best / 'model.json'}: damaged, expected an encoder (name, options) and tasks")


def _check_labels(description: Mapping[str, Any], task: Task) -> None:
    """Refuses a task whose labels are not those that the installed task plugin gives the same outputs."""
    trained = description.get("tasks", {}).get(task.name, {}).get("labels")
    now = getattr(task.target, "names", None)
    if trained is not None and now is not None and list(trained) != list(now):
        raise CheckpointError(
            f"task '{task.name}' was trained on the labels {', '.join(trained)}, but the installed plugin has "
            f"{', '.join(now)}; use the plugin version that trained it"
        )


def _texts(row: Example) -> tuple[str, str, str | None]:
    return row.id, row.text, row.pair


def to_json(prediction: Prediction) -> dict[str, Any]:
    """label, score and, where there are classes, probabilities."""
    out: dict[str, Any] = {"label": prediction.label, "score": round(prediction.score, 6)}
    if prediction.probabilities is not None:
        out["probabilities"] = {name: round(p, 6) for name, p in prediction.probabilities.items()}
    return out
