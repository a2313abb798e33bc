"""`mtk reproduce`: the paper's rows, trained here, beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mtk_paper import PAPER, ROWS, VARIANTS, options

if TYPE_CHECKING:
    from mtk import Cell, ScoreTable, Sweep

TITLE = "BERT and Learnie, row by row"

# Table 4: official test rows, whose labels are not public
TEST = {
    "paper/final": {"sst": 0.529, "quora": 0.796, "sts": 0.812, "mean": 0.712},
    "paper/final-tuned": {"sst": 0.532, "quora": 0.857, "sts": 0.854, "mean": 0.748},
}


def reproduce(
    out: options.Out,
    rows: Annotated[
        list[str] | None,
        typer.Option(help="A recipe, with or without 'paper/'. Repeatable, or with commas. Default: all eight."),
    ] = None,
    seeds: options.Seeds = 1,
    seed: options.Seed = 11711,
    encoder: options.Encoder = None,
    data: options.Data = None,
    sample: options.Sample = False,
    epochs: options.Epochs = None,
    max_steps: options.MaxSteps = None,
    max_train_rows: options.MaxTrainRows = None,
    test: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also score the finished runs on labelled test files."),
    ] = None,
    device: options.Device = None,
    precision: options.Precision = None,
    threads: options.Threads = None,
    set_: options.Set = None,
    shard: options.Shard = None,
    dry_run: options.DryRun = False,
) -> int:
    """Train the rows of the paper's Tables 1 to 3 and set the scores beside the paper's.

    mtk reproduce --encoder minilm --data DIR --out runs/ladder

    The same command goes on with a ladder that was cut off; with more --seeds or --rows it adds to one.
    """
    from mtk import Cell, ConfigError, Sweep, configure, load_recipe

    names = chosen_rows(rows)
    if test is not None and not test.is_dir():
        raise ConfigError(f"--test {test}: expected a folder with labelled test files, found no folder")
    flat = dict(
        **options.place(data, sample), encoder=encoder, epochs=epochs, max_steps=max_steps,
        max_train_rows=max_train_rows, device=device, precision=precision, threads=threads, settings=set_ or [],
    )  # fmt: skip
    recipes = {name: load_recipe(name) for name in names}
    cells = [Cell(name, configure(recipe=name, **flat), recipe.published) for name, recipe in recipes.items()]
    sweep = Sweep(out, cells, options.seeds_of(seeds, seed))

    code = sweep.conduct(title=TITLE, command=options.this_command(), shard=shard, dry_run=dry_run, table=ladder)
    if not dry_run and code in (0, 2):  # not after an interruption
        score_test(sweep, test)
    return code


def chosen_rows(rows: Sequence[str] | None) -> list[str]:
    """Recipes in the paper's order. Raises ConfigError for one that is not the paper's."""
    from mtk import ConfigError, did_you_mean

    if not rows:
        return list(ROWS)
    known = {name: name for name in (*ROWS, *VARIANTS)} | {n.removeprefix("paper/"): n for n in (*ROWS, *VARIANTS)}
    wanted = [word.strip() for row in rows for word in row.split(",") if word.strip()]
    for word in wanted or [""]:
        if word not in known:
            raise ConfigError(f"--rows {word}: no such row of the paper{did_you_mean(word, known)}")
    return [name for name in (*ROWS, *VARIANTS) if name in {known[word] for word in wanted}]


def ladder(sweep: Sweep) -> ScoreTable:
    """The sweep's table with the paper's names of the rows, and what a reader must know of the comparison."""
    from mtk import ScoreTable, load_recipe

    columns = ["sst", "quora", "sts", "mean"]
    order = [*ROWS, *VARIANTS]
    cells = sorted((c for c in sweep.all_cells if c.name in order), key=lambda cell: order.index(cell.name))
    rows = []
    for cell in cells:
        row = sweep.row(cell, columns)
        scores = dict(row.scores)
        if "cfimdb" in cell.config.tasks and scores:  # the paper's mean is that of three tasks
            scores["mean"] = [sum(three) / 3 for three in zip(*(scores[name] for name in columns[:3]), strict=True)]
        rows.append(replace(row, name=load_recipe(cell.name).title, scores=scores))
    caption = [*sweep.caption(cells), f"Published: {PAPER}, dev, BERT-base, 20 epochs, the full Quora data."]
    if any(cell.config.encoder.name == "minilm" for cell in cells):
        caption.append(
            "MiniLM was itself trained on a billion sentence pairs, Quora duplicates among them: its scores and "
            "BERT-base's are not measured on equal terms."
        )
    caption += fewer_epochs(cells)
    caption.append("How each row was read where the paper leaves it open: mtk recipes NAME.")
    return ScoreTable(TITLE, columns, rows, caption, published="paper, dev")


def fewer_epochs(cells: Sequence[Cell]) -> list[str]:
    """A line for each number of epochs that is below what the recipes have for the cell's encoder."""
    from mtk import load_recipe

    lines = []
    for cell in cells:
        encoder, epochs = cell.config.encoder.name, cell.config.train.epochs
        own = load_recipe(cell.name).tree(encoder)["train"]["epochs"]
        if epochs < own:
            few = f"{epochs} {'epoch' if epochs == 1 else 'epochs'}"
            lines.append(f"A reduced run: {few}, where the recipes have {own} for this encoder.")
    return list(dict.fromkeys(lines))


def score_test(sweep: Sweep, folder: Path | None) -> None:
    """The finished runs on a folder's labelled test files, beside Table 4; without one, a line that says why not."""
    from mtk import MTKError, load

    if folder is None:
        if any(cell.name in TEST for cell in sweep.cells):
            typer.echo(
                "Table 4 of the paper has scores on the official test rows, whose labels are not public; with labelled "
                "test files of your own: --test DIR"
            )
        return
    for cell in sweep.cells:
        for result in sweep.results(cell):
            try:
                scores = load(sweep.path(cell, result.seed)).evaluate("test", data=folder)
            except MTKError as error:
                typer.echo(f"test, {cell.name}: {error}")
                break
            ours = ", ".join(f"{name} {scores.tasks[name][metric]:.4f}" for name, metric in scores.primary.items())
            paper = ", ".join(f"{name} {value:g}" for name, value in TEST.get(cell.name, {}).items())
            beside = f" | paper: {paper}" if paper else ""
            typer.echo(f"test, {cell.name}, seed {result.seed}: {ours}, mean {scores.aggregate:.4f}{beside}")
