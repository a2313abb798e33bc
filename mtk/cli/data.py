"""`mtk data check`: what the rows are like, before any training. (`mtk data fetch` comes from a plugin.)"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from mtk.datacheck import DataReport, Quantiles, SplitReport
    from mtk.interfaces import Task, Tokenizer

app = typer.Typer(name="data", help="Fetch data sets, and look at them before training.", no_args_is_help=True)

_SHOWN = 5  # bad rows, duplicates or leaks that are named one by one; --json holds all
_SHOWN_OF_GROUP = 3  # ids of rows with the same text
_PIPED_WIDTH = 200  # characters, where no terminal says how wide it is


@app.callback()
def _data() -> None:
    """Fetch data sets, and look at them before training."""


@app.command()
def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TASK]...", help="Tasks, as with --task: mtk data check ./mytask.toml"),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="A task, with its options if any: quora:bad_rows=2, or a TOML file of one or several. Repeatable. "
            "Default: every task."
        ),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The folder that holds the tasks' files.")] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Whose tokenizer counts lengths; none counts words. Default: minilm where it loads."),
    ] = None,
    rows: Annotated[int, typer.Option(min=0, help="How many parsed rows of each split to show.")] = 2,
    sample: Annotated[
        bool, typer.Option("--sample", help="The built-in sample, whatever other data there are.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Show rows, labels, lengths, bad rows, duplicates and leaks between splits."""
    from mtk.datacheck import check_data
    from mtk.errors import DataError

    tasks, skipped = _tasks([*(names or []), *(task or [])], data, sample)
    tokenizer, counted = _tokenizer(encoder)
    report = check_data(tasks, tokenizer, rows)
    origins = {t.name: _origin(t) for t in tasks}
    if as_json:
        notes = {t.name: list(t.notes) for t in tasks if t.notes}
        about = {"counted_by": counted, "origins": origins, "notes": notes, "skipped": skipped}
        report_dict = {**about, **dataclasses.asdict(report)}
        typer.echo(json.dumps(report_dict, indent=2, ensure_ascii=False, default=str))
    else:
        _show(report, origins, {t.name: t.notes for t in tasks}, counted, skipped)
    if report.errors:
        count = len(report.errors)
        raise DataError(report.errors[0] if count == 1 else f"{count} faults, the first: {report.errors[0]}")


# ---------------------------------------------------------------------------------------------- what is looked at


def _tasks(specs: list[str], data: Path | None, sample: bool) -> tuple[list[Task], dict[str, str]]:
    """The named tasks, or all that need no options and have data; and why others of them were skipped."""
    from mtk import plugins
    from mtk.config import TaskConfig
    from mtk.errors import ConfigError, DataError
    from mtk.interfaces import TaskContext
    from mtk.settings import task_choices

    tasks: list[Task] = []
    for spec, chosen in [(given, one) for given in specs for one in task_choices(given)]:
        if any(chosen.name == earlier.name for earlier in tasks):
            raise DataError(f"task '{chosen.name}' is named twice")
        options = {k: v for k, v in chosen.table.items() if k not in TaskConfig.model_fields and k != "kind"}
        context = TaskContext(chosen.name, data, _when(sample))
        try:
            tasks.append(plugins.build("task", chosen.table["kind"], context, **options))
        except ConfigError as error:
            raise ConfigError(f"{spec}: {error}" if spec.lower().endswith(".toml") else str(error)) from error
    if specs:
        return tasks, {}
    skipped: dict[str, str] = {}
    for name in plugins.registered("task"):
        known = plugins.options("task", name)
        if any(option.required for option in known) or "data" in {option.name for option in known}:
            continue  # its rows are where its options say
        built: Task = plugins.build("task", name, TaskContext(name, data, _when(sample)))
        try:
            _ = built.source
        except DataError as error:
            skipped[name] = str(error)
            continue
        tasks.append(built)
    if not tasks:
        raise DataError(next(iter(skipped.values()), "no plugin registers a task"))
    return tasks, skipped


def _when(sample: bool) -> Literal["never", "always"]:
    return "always" if sample else "never"


def _tokenizer(encoder: str | None) -> tuple[Tokenizer | None, str]:
    """The tokenizer that counts lengths, and its name."""
    from mtk import plugins
    from mtk.errors import MTKError
    from mtk.options import parse_spec

    if encoder == "none":
        return None, "words"
    name, options = parse_spec(encoder or "minilm")
    try:
        return plugins.build("encoder", name, **options).tokenizer, f"tokens of {name}"
    except MTKError:
        if encoder is not None:
            raise
        return None, "words (the tokenizer of minilm did not load)"


def _origin(task: Task) -> str:
    from mtk.errors import DataError

    try:
        source = task.source
    except DataError:
        return ""
    return source.origin + (" (made-up sample: scores on it compare with nothing)" if source.sample else "")


# ---------------------------------------------------------------------------------------------- how it is shown


def _show(
    report: DataReport,
    origins: dict[str, str],
    notes: dict[str, Sequence[str]],
    counted: str,
    skipped: dict[str, str],
) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=_PIPED_WIDTH)
    for name, origin in origins.items():
        if origin:
            console.print(f"{name}: {origin}", soft_wrap=True)
        for note in notes[name]:
            console.print(f"  {note}", soft_wrap=True)
    for name, reason in skipped.items():
        console.print(f"{name}: skipped: {reason}", soft_wrap=True)
    if report.splits:
        console.print(_split_table(report))
        console.print(f"lengths: {counted}", style="italic", soft_wrap=True)
    for leak in report.leaks:
        held, other = f"{leak.task} {leak.split}", f"{leak.other_task} {leak.other_split}"
        text = f"leak: {len(leak.ids)} of the {leak.rows:,} {held} rows also stand in {other}: {_some(leak.ids)}"
        console.print(text, soft_wrap=True)
    if report.splits and not report.leaks:
        console.print("no leaks between splits")
    named: set[str] = set()
    for split in report.splits:
        _show_findings(console, split, [bad for bad in split.bad if bad not in named])
        named.update(split.bad)  # several tasks may read one file
    for split in report.splits:
        for row, found in zip(split.first, split.first_labels, strict=True):
            pair = "" if row.pair is None else f" | {row.pair}"
            label = "no label" if found is None else found
            console.print(f"{split.task} {split.split} {row.id}: [{label}] {row.text}{pair}", soft_wrap=True)
    for error in report.errors[1:]:  # the first is the command's own error
        console.print(f"fault: {error}", soft_wrap=True)


def _split_table(report: DataReport) -> Table:
    from rich.table import Table

    table = Table()
    for column, justify in (("task", "left"), ("split", "left"), ("rows", "right"), ("labels", "left")):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for column in ("length median / 95% / max", "bad", "same", "contradict"):
        table.add_column(column, justify="right", overflow="fold")
    for split in report.splits:
        table.add_row(
            split.task,
            split.split,
            f"{split.rows:,}",
            _labels(split),
            _quantiles(split.lengths),
            *(str(len(found)) for found in (split.bad, split.duplicates, split.contradictions)),
        )
    return table


def _labels(split: SplitReport) -> str:
    parts = []
    if split.labels:
        parts.append(", ".join(f"{name} {count:,}" for name, count in split.labels.items()))
    if split.values:
        v = split.values
        parts.append(f"{v.min:g} to {v.max:g}, mean {v.mean:.2f}, median {v.median:g}")
    if split.unlabelled:
        parts.append(f"{split.unlabelled:,} without")
    return "; ".join(parts)


def _quantiles(values: Quantiles | None) -> str:
    return "-" if values is None else f"{values.median:g} / {values.p95:g} / {values.max:g}"


def _show_findings(console: Console, split: SplitReport, bad: Sequence[str]) -> None:
    for row in bad[:_SHOWN]:
        console.print(f"bad row skipped: {row}", soft_wrap=True)
    if more := len(bad[_SHOWN:]):
        console.print(f"and {more:,} more bad row{'s' * (more > 1)} in {split.origin}", soft_wrap=True)
    for groups, what in ((split.duplicates, "same text"), (split.contradictions, "same text under different labels")):
        if groups:
            shown = _some([_same(group) for group in groups])
            console.print(f"{split.task} {split.split}: {what} ({len(groups)}): {shown}", soft_wrap=True)


def _same(group: list[str]) -> str:
    return " = ".join(group[:_SHOWN_OF_GROUP] + ["..."] * (len(group) > _SHOWN_OF_GROUP))


def _some(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN:,} more (--json names all)" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
