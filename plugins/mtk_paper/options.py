"""The options that the commands share, and what they become."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mtk import Task

Out = Annotated[Path, typer.Option(help="The folder of all the runs; new, empty, or an earlier one's, which goes on.")]
Seeds = Annotated[int, typer.Option(min=1, help="Seeds of each configuration.")]
Seed = Annotated[int, typer.Option(min=0, help="The first seed.")]
Data = Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of the tasks' files.")]
Sample = Annotated[bool, typer.Option("--sample", help="Train on the built-in sample: for trying things out.")]
Encoder = Annotated[str | None, typer.Option(help="minilm, bert-base, or another. Default: the recipe's own.")]
Epochs = Annotated[int | None, typer.Option(help="Epochs at most, in place of the configuration's.")]
MaxSteps = Annotated[int | None, typer.Option(help="Optimizer steps at most: a reduced run, and labelled so.")]
MaxTrainRows = Annotated[int | None, typer.Option(help="Training rows a task at most: a reduced run, labelled so.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")]
Precision = Annotated[str | None, typer.Option(help="auto, fp32 or bf16.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="SECTION.KEY=VALUE for every run. Repeatable.")]
Shard = Annotated[
    str | None, typer.Option(metavar="I/N", help="Make the I-th of N parts of the runs: a part a machine.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the runs and an estimate, train nothing.")]


def this_command() -> str:
    """What was typed, to be typed again."""
    return shlex.join(["mtk", *sys.argv[1:]])


def place(data: Path | None, sample: bool) -> dict[str, str | None]:
    """`--data` and `--sample` as settings."""
    return {"data": None if data is None else str(data), "sample": "always" if sample else None}


def seeds_of(number: int, first: int) -> list[int]:
    return [first + i for i in range(number)]


def whole_tree(config: Any) -> dict[str, Any]:
    """A configuration's tree, from which others are made: the encoder of a warm start is that run's, by name."""
    from mtk import RunFolder

    tree: dict[str, Any] = config.to_dict()
    if config.init is not None and "encoder" not in config.model_fields_set:
        own = RunFolder.open(Path(config.init)).config.to_dict()["encoder"]
        rate = config.model.encoder_dropout
        tree["encoder"] = {key: value for key, value in own.items() if key != "dropout" or rate is None}
    return tree


def built_task(tree: Mapping[str, Any], name: str) -> Task:
    """One task of a configuration's tree, for what its plugin says of it."""
    from mtk import TaskContext, build

    folder, choice = tree["data"].get("folder"), tree["tasks"][name]
    context = TaskContext(name, None if folder is None else Path(folder), tree["data"]["sample"])
    own = {k: v for k, v in choice.items() if k not in ("kind", "head", "weight", "batch_size", "trained")}
    task: Task = build("task", choice["kind"], context, **own)
    return task
