"""`mtk evaluate`: a trained run's scores on a split, another data folder or a file."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mtk import notices

if TYPE_CHECKING:
    from mtk.inference import TrainedModel

_SHOWN = 5  # bad rows that are named one by one; --json holds all


class Split(StrEnum):
    """A split's name."""

    train = "train"
    dev = "dev"
    test = "test"


class Device(StrEnum):
    """Where a model computes."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as mtk train wrote it; mtk runs lists them.")]
DeviceOption = Annotated[Device, typer.Option(help="Where to compute.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: torch's own choice.")]


def evaluate(
    run: Run,
    task: Annotated[list[str] | None, typer.Option(help="A task of the run. Repeatable. Default: all.")] = None,
    split: Annotated[Split, typer.Option(help="Which rows.")] = Split.dev,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR|FILE", help="Another folder of the tasks' files; or one file, for one task."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    device: DeviceOption = Device.auto,
    threads: ThreadsOption = None,
) -> None:
    """Score a trained run on whole splits: every metric of every task, and their aggregate."""
    from mtk.inference import load

    model = load(run, device=device.value, threads=threads)
    found = _scores(model, list(dict.fromkeys(task or model.tasks)), split.value, data)
    if as_json:
        typer.echo(json.dumps({"run": str(run), **found}, indent=2, ensure_ascii=False))
    else:
        _show(found)


def _scores(model: TrainedModel, names: list[str], split: str, data: Path | None) -> dict[str, Any]:
    """What `--json` prints. Raises MTKError before anything is computed, NoRowsError where no task has rows."""
    from mtk.errors import DataError, NoRowsError

    if data is not None and not data.is_dir():
        if not data.exists():
            raise DataError(f"--data {data}: no such file or folder")
        if len(names) > 1:
            raise DataError(
                f"--data {data}: one file serves one task, but {len(names)} are to be evaluated ({', '.join(names)}); "
                "choose it with --task"
            )
        split = data.name
    read, left_out = {}, dict(model.left_out)
    for name in names:
        try:
            read[name] = model.examples(name, split, data)
        except NoRowsError as error:
            left_out[name] = str(error)
    if not read:
        raise NoRowsError("; ".join(left_out[name] for name in names))
    scores = model.scores({name: rows.examples for name, rows in read.items()})
    tasks = {
        name: {
            "rows": len(rows.examples),
            "labelled": sum(row.label is not None for row in rows.examples),
            "bad": rows.bad,
            "origin": rows.source.origin,
            "file": rows.source.files[split].name if split in rows.source.files else None,
            "sample": rows.source.sample,
            "primary": scores.primary[name],
            "metrics": scores.tasks[name],
        }
        for name, rows in read.items()
    }
    whole = {"split": split, "device": model.hardware.device, "tasks": tasks, "aggregate": scores.aggregate}
    return {**whole, "left_out": left_out} if left_out else whole


def _show(found: dict[str, Any]) -> None:
    from mtk.cli.printing import print_table

    tasks = found["tasks"]
    if any(facts["sample"] for facts in tasks.values()):
        typer.echo(f"{notices.SAMPLE}\n")
    for name, facts in tasks.items():
        file = f", {facts['file']}" if facts["file"] and not facts["origin"].endswith(facts["file"]) else ""
        typer.echo(f"{name}: {facts['labelled']:,} rows from {facts['origin']}{file}")
        if facts["rows"] > facts["labelled"]:
            typer.echo(f"{name}: left out, because they have no label: {facts['rows'] - facts['labelled']:,}")
        for reason in facts["bad"][:_SHOWN]:
            typer.echo(f"{name}: bad row left out: {reason}")
        if len(facts["bad"]) > _SHOWN:
            typer.echo(f"{name}: and {len(facts['bad']) - _SHOWN:,} more bad rows")
    for name, reason in found.get("left_out", {}).items():
        typer.echo(f"{name}: left out: {reason}")
    typer.echo()
    lines = [
        (
            name,
            found["split"],
            f"{facts['labelled']:,}",
            metric,
            "*" if metric == facts["primary"] else "",
            f"{value:.4f}",
        )
        for name, facts in tasks.items()
        for metric, value in facts["metrics"].items()
    ]
    print_table(("task", "split", "rows", "metric", "", "score"), lines)
    typer.echo(f"\naggregate: {found['aggregate']:.4f} (* primary metric; the aggregate is their mean)")
