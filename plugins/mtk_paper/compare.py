"""`mtk compare-single`: every task alone and all of them together. Does sharing help here, and whom?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mtk_paper import options
from mtk_paper.ablate import by_seed, compared

if TYPE_CHECKING:
    from mtk import Cell, ScoreRow, ScoreTable, Sweep

TOGETHER, ALONE = "together", "alone"


def compare_single(
    out: options.Out,
    task: Annotated[list[str] | None, typer.Option(help="A task, as in mtk train. Repeatable.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe to start from; mtk recipes lists them.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file to start from, such as a run's config.toml.")] = None,
    combiner: Annotated[str | None, typer.Option(help="How the tasks' gradients become one, together.")] = None,
    seeds: options.Seeds = 3,
    seed: options.Seed = 11711,
    encoder: options.Encoder = None,
    data: options.Data = None,
    sample: options.Sample = False,
    epochs: options.Epochs = None,
    max_steps: options.MaxSteps = None,
    max_train_rows: options.MaxTrainRows = None,
    device: options.Device = None,
    precision: options.Precision = None,
    threads: options.Threads = None,
    set_: options.Set = None,
    shard: options.Shard = None,
    dry_run: options.DryRun = False,
) -> int:
    """Train each task alone and all together, and print the difference of each task with its interval.

    mtk compare-single --task sst --task quora --task sts --seeds 3 --data DIR --out runs/shared

    The budget is the same: as many epochs, and in each as many rows of the task, alone as together.
    """
    from mtk import Cell, ConfigError, Sweep, configure

    flat = dict(
        **options.place(data, sample), combiner=combiner, encoder=encoder, epochs=epochs, max_steps=max_steps,
        max_train_rows=max_train_rows, device=device, precision=precision, threads=threads,
    )  # fmt: skip
    full = configure(recipe=recipe, config=config, tasks=task or [], settings=set_ or [], **flat)
    tree = options.whole_tree(full)
    if tree["mixer"]["name"] not in ("all", "capped"):
        raise ConfigError(
            f"compare-single needs a mixer that gives a task the same rows alone as together: all or capped, found "
            f"{tree['mixer']['name']}; --set mixer.name=capped"
        )
    trained = [
        name for name, choice in tree["tasks"].items() if choice.get("trained", options.built_task(tree, name).trained)
    ]
    if len(trained) < 2:
        raise ConfigError(f"compare-single needs at least two trained tasks, found {', '.join(trained) or 'none'}")
    cells = [
        Cell(TOGETHER, configure(config=tree)),
        *(Cell(f"{ALONE}: {n}", configure(config=alone(tree, n))) for n in trained),
    ]
    sweep = Sweep(out, cells, options.seeds_of(seeds, seed))
    return sweep.conduct(
        title="Each task alone, and all together",
        command=options.this_command(),
        shard=shard,
        dry_run=dry_run,
        table=lambda sweep: comparison(sweep, trained),
    )


def alone(tree: Mapping[str, Any], task: str) -> dict[str, Any]:
    """The configuration with one of its tasks, and what concerns the others, or several, taken out."""
    own = {
        **tree,
        "combiner": {"name": "sum"},
        "tasks": {task: tree["tasks"][task]},
        "mixer": dict(tree["mixer"]),
        "train": dict(tree["train"]),
    }
    caps = own["mixer"].get("per_task")
    if isinstance(caps, Mapping):
        own["mixer"]["per_task"] = {name: cap for name, cap in caps.items() if name == task}
    kind = tree["tasks"][task]["kind"]
    own["augment"] = [
        choice
        for choice in tree["augment"]
        if (aim := choice.get("task", "none")) == task
        or (aim == "none" and (choice["name"] != "sick" or kind == "sts"))
    ]
    if tree["train"]["select_on"].partition(".")[0] != task:
        own["train"]["select_on"] = "aggregate"
    return own


def comparison(sweep: Sweep, tasks: list[str]) -> ScoreTable:
    """Two rows: alone, and together with its differences against alone."""
    from mtk import ScoreTable

    together, singles = sweep.cells[0], dict(zip(tasks, sweep.cells[1:], strict=True))
    columns = [*tasks, "mean"]
    ours, theirs = scores_of(sweep, {name: together for name in tasks}), scores_of(sweep, singles)
    found = {c: compared(ours[c], theirs[c]) for c in columns}
    differences = {c: d for c, d in found.items() if d is not None}
    both = sweep.row(together, columns)
    both = replace(both, scores=listed(ours), against=ALONE, differences=differences, name=TOGETHER)
    rows = [_alone_row(sweep, singles, theirs), both]
    caption = [*sweep.caption(sweep.cells), "Difference: together minus alone; above 0, sharing helps."]
    for column, difference in differences.items():
        if difference.exceeds_noise is None:
            said = "one seed tells nothing of noise"
        elif not difference.exceeds_noise:
            said = "within the noise"
        else:
            said = "sharing helps" if difference.mean > 0 else "sharing hurts"
        caption.append(f"{column}: {difference.mean:+.4f}, {said} ({difference.pairs} seeds).")
    return ScoreTable("Each task alone, and all together", columns, rows, caption)


def scores_of(sweep: Sweep, cells: Mapping[str, Cell]) -> dict[str, dict[int, float]]:
    """Column -> seed -> score; `mean` where a seed has all tasks."""
    found = {task: by_seed(sweep, cell, task) for task, cell in cells.items()}
    seeds = set.intersection(*(set(scores) for scores in found.values()))
    found["mean"] = {seed: sum(found[task][seed] for task in cells) / len(cells) for seed in sorted(seeds)}
    return found


def listed(scores: Mapping[str, Mapping[int, float]]) -> dict[str, list[float]]:
    return {column: list(values.values()) for column, values in scores.items() if values}


def _alone_row(sweep: Sweep, singles: Mapping[str, Cell], scores: Mapping[str, Mapping[int, float]]) -> ScoreRow:
    from mtk import ScoreRow

    rows = [sweep.row(cell, [task]) for task, cell in singles.items()]
    missing = [f"{task}: {row.status}" for task, row in zip(singles, rows, strict=True) if row.status]
    return ScoreRow(
        ALONE,
        listed(scores),
        best_epochs=[epoch for row in rows for epoch in row.best_epochs],
        status="; ".join(missing),
        seconds=sum(row.seconds for row in rows),
    )
