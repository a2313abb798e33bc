"""A plugin of toy tasks, heads and combiners, and the configuration of a run that takes a tenth of a second."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mtk.plugins
from mtk.config import RunConfig, make_config, merge
from mtk.hookspecs import Register, hookimpl
from mtk.interfaces import (
    Augmentation,
    Example,
    GradientCombiner,
    Mixer,
    Prediction,
    Source,
    StepInfo,
    Target,
    Task,
    TaskContext,
)
from mtk.targets import Classes, Range
from tests.toys import ToyFAMO, ToyRDrop, ToyTagger, ToyTags, ToyTask

WORDS = "the movie was good bad fine dull bright long short story actor music funny sad a boy runs dog cat"


def texts(count: int, seed: object, longest: int = 12) -> list[str]:
    draw = random.Random(repr(seed))
    return [" ".join(draw.choices(WORDS.split(), k=draw.randint(1, longest))) for _ in range(count)]


def examples(count: int, seed: object, label: Any, paired: bool = False) -> list[Example]:
    """Rows whose label is a function of their text; every ninth has none."""
    pairs = texts(count, (seed, "pair"))
    return [
        Example(str(i), text, pairs[i] if paired else None, None if i % 9 == 8 else label(text, pairs[i]))
        for i, text in enumerate(texts(count, seed))
    ]


def _splits(context: TaskContext, rows: int, dev: int, label: Any, paired: bool = False) -> dict[str, list[Example]]:
    sizes = {"train": rows, "dev": dev}
    return {split: examples(size, (context.name, split), label, paired) for split, size in sizes.items()}


def words(context: TaskContext, *, rows: int = 24, dev: int = 8, trained: bool = True, weight: float = 1.0) -> Task:
    """Is the text long?"""
    splits = _splits(context, rows, dev, lambda a, b: int(len(a.split()) > 6))
    task = ToyTask(context.name, Classes(["short", "long"]), splits)
    task.trained, task.weight = trained, weight
    return task


def pairs(context: TaskContext, *, rows: int = 17, dev: int = 7) -> Task:
    """How many words do two texts share?"""
    splits = _splits(context, rows, dev, lambda a, b: float(min(5, len(set(a.split()) & set(b.split())))), True)
    return ToyTask(context.name, Range(0, 5), splits, paired=True)


def tags(context: TaskContext, *, rows: int = 10, dev: int = 5) -> Task:
    """A tag a word."""
    splits = _splits(context, rows, dev, lambda a, b: [len(word) % 3 for word in a.split()])
    task = ToyTask(context.name, ToyTags(), splits)
    task.default_head = "toy-tagger"
    return task


class Filed(Task):
    """Rows from DATA/NAME-SPLIT.txt: a label, a space, the text."""

    target: Target = Classes(["no", "yes"])

    @property
    def source(self) -> Source:
        assert self.context.data is not None
        names = {split: self.context.data / f"{self.name}-{split}.txt" for split in ("train", "dev")}
        return Source(str(self.context.data), names)

    def examples(self, split: str) -> Sequence[Example]:
        lines = self.source.files[split].read_text().splitlines()
        return [Example(str(i), line[2:], None, int(line[0])) for i, line in enumerate(lines)]


class Exploding(Classes):
    """A target whose loss is no longer finite from the 11th look at it on; the check before training takes two."""

    def __init__(self) -> None:
        super().__init__(["no", "yes"])
        self.looks = 0

    def loss(self, outputs: Tensor, targets: Any) -> Tensor:
        self.looks += 1
        return super().loss(outputs, targets) * (torch.inf if self.looks > 10 else 1.0)


def exploding(context: TaskContext) -> Task:
    return ToyTask(context.name, Exploding(), _splits(context, 24, 8, lambda a, b: len(a.split()) % 2))


class Scripted(Classes):
    """A target with a metric that follows a script, one entry an evaluation."""

    def __init__(self, script: Sequence[float]) -> None:
        super().__init__(["no", "yes"])
        self.script = list(script)

    def metrics(self, predictions: Sequence[Prediction], labels: Sequence[Any]) -> dict[str, float]:
        scripted = self.script.pop(0) if any(p.score < 1 for p in predictions) else 0.0
        return {**super().metrics(predictions, labels), "scripted": scripted}


def scripted(context: TaskContext, *, script: list[float], main: bool = False) -> Task:
    task = ToyTask(context.name, Scripted(script), _splits(context, 8, 4, lambda a, b: len(a.split()) % 2))
    if main:
        task.target.primary = "scripted"
    return task


class Stateful(GradientCombiner):
    """Weights from a running Gramian, a running count by task and its own draws: all of them state."""

    needs = "gram"

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}
        self.mean: Tensor | None = None
        self.trace: list[float] = []

    def gradient_weights(self, gram: Tensor, losses: Tensor, info: StepInfo) -> Tensor:
        for name in info.tasks:
            self.seen[name] = self.seen.get(name, 0) + 1
        diagonal = torch.zeros(9, dtype=torch.float64)
        diagonal[: len(gram)] = gram.diagonal()
        self.mean = diagonal if self.mean is None else 0.9 * self.mean + 0.1 * diagonal
        self.trace = [*self.trace[-3:], float(self.mean.sum())]
        noise = torch.rand(len(gram), generator=info.generator, dtype=torch.float64)
        return 0.5 + noise / (1 + self.mean[: len(gram)]) + 0.01 * self.seen[info.tasks[0]]

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "mean": self.mean, "trace": self.trace}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen, self.mean, self.trace = dict(state["seen"]), state["mean"], list(state["trace"])


class Backwards(Mixer):
    """Every row, but the tasks in another order than they were given, and none that begins with `x`."""

    def rows(self, sizes: Mapping[str, int], epoch: int, epochs: int, generator: torch.Generator) -> dict[str, int]:
        return {name: sizes[name] for name in reversed(sizes) if not name.startswith("x")}


class Nothing(Augmentation):
    def __call__(self, task: Task, rows: Sequence[Example], generator: torch.Generator) -> Sequence[Example]:
        return []


@hookimpl
def register_tasks(register: Register) -> None:
    for name, build in {"words": words, "pairs": pairs, "tags": tags, "filed": Filed, "exploding": exploding}.items():
        register(name, build, "a toy")
    register("scripted", scripted, "a toy")


@hookimpl
def register_heads(register: Register) -> None:
    register("toy-tagger", ToyTagger, "a toy")
    register("rdrop", ToyRDrop, "a toy")


@hookimpl
def register_combiners(register: Register) -> None:
    register("stateful", Stateful, "a toy")
    register("toy-famo", ToyFAMO, "a toy")


@hookimpl
def register_mixers(register: Register) -> None:
    register("backwards", Backwards, "a toy")


@hookimpl
def register_augmentations(register: Register) -> None:
    register("nothing", Nothing, "a toy")


def manager() -> mtk.plugins.Plugins:
    """The installed plugins and these; without the tasks on one's own files, one of which is named as a toy is."""
    installed = entry_points(group="mtk")
    found = mtk.plugins.Plugins([one for one in installed if one.name != "files"])
    found.add("toys", sys.modules[__name__], "toys", "1.0")
    assert not found.broken(), found.broken()
    return found


TREE: dict[str, Any] = {
    "tasks": {"words": {"batch_size": 3}, "pairs": {"head": "cosine"}, "tags": {}},
    "encoder": {"name": "tiny", "hidden_size": 8, "layers": 1, "dropout": 0.2},
    "mixer": "capped:rows=13",
    "data": {"max_length": 24},
    "optim": {"lr": 0.01},
    "train": {
        "epochs": 3, "batch_size": 4, "patience": 0, "seed": 1, "precision": "fp32", "device": "cpu", "threads": 1
    },
}  # fmt: skip


def config(tasks: Mapping[str, Any] | None = None, **over: Any) -> RunConfig:
    """The toy run's configuration with other tasks, and sections laid over it."""
    base = TREE if tasks is None else {**TREE, "tasks": tasks}
    return make_config(merge(base, over))


def still(tasks: Mapping[str, Any] | None = None, **over: Any) -> RunConfig:
    """Without any dropout: the tasks' gradients are then a function of the rows alone."""
    return config(tasks, **merge({"encoder": {"dropout": 0.0}, "model": {"dropout": 0.0}}, over))


def write_rows(folder: Path, name: str, seed: object = 0, rows: int = 16) -> None:
    for split in ("train", "dev"):
        lines = [f"{len(text) % 2} {text}" for text in texts(rows, (name, split, seed))]
        (folder / f"{name}-{split}.txt").write_text("\n".join(lines) + "\n")
