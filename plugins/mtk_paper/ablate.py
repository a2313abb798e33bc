"""`mtk ablate`: a configuration without each of its extensions in turn, and which differences exceed the noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mtk_paper import options

if TYPE_CHECKING:
    from mtk import Difference, ScoreTable, Sweep

FULL = "full"


def ablate(
    out: options.Out,
    recipe: Annotated[str | None, typer.Option(help="The recipe to take apart; mtk recipes lists them.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file to take apart, such as a run's config.toml.")] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="SECTION.KEY=VALUE", help="A further row: with this setting instead. Repeatable."),
    ] = None,
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
    """Train a configuration whole and without each of its extensions, and say which differences exceed the noise.

    mtk ablate --recipe paper/final --encoder minilm --data DIR --seeds 3 --out runs/ablation

    An extension is what a plain run does not have: a combiner other than sum, a schedule, early stopping, caps on
    rows, augmentations, a pair format, joint pairs, a shared projection, R-Drop, freezing and the like.
    """
    from mtk import Cell, ConfigError, ScoreTable, Sweep, configure

    if (recipe is None) == (config is None):
        raise ConfigError("mtk ablate takes one configuration apart: give --recipe NAME or --config FILE")
    flat = dict(
        **options.place(data, sample), encoder=encoder, epochs=epochs, max_steps=max_steps,
        max_train_rows=max_train_rows, device=device, precision=precision, threads=threads,
    )  # fmt: skip
    full = configure(recipe=recipe, config=config, settings=set_ or [], **flat)
    tree = options.whole_tree(full)
    changed = [(name, configure(config={**tree, **change})) for name, change in extensions(tree)]
    for setting in without or []:
        changed.append((f"with {setting}", configure(config=tree, settings=[setting])))
        if changed[-1][1].to_dict() == tree:
            raise ConfigError(f"--without {setting}: the configuration has that already, so nothing would be compared")
    if not changed:
        raise ConfigError(
            "the configuration has no extension to leave out; name a setting: --without SECTION.KEY=VALUE"
        )
    cells = [Cell(FULL, configure(config=tree)), *(Cell(name, other) for name, other in changed)]
    title = f"Ablation of {recipe or config}"
    sweep = Sweep(out, cells, options.seeds_of(seeds, seed))

    def table(sweep: Sweep) -> ScoreTable:
        made = sweep.table(title)
        whole = {column: by_seed(sweep, cells[0], column) for column in made.columns}
        rows = [row for row in made.rows if row.name == FULL]
        others = [(c, row) for c, row in zip(sweep.all_cells, made.rows, strict=True) if c.name != FULL]
        for cell, row in others:
            found = {c: compared(by_seed(sweep, cell, c), whole[c]) for c in made.columns}
            rows.append(replace(row, against=FULL, differences={c: d for c, d in found.items() if d is not None}))
        return ScoreTable(made.title, made.columns, rows, [*made.caption, *verdicts(rows)])

    return sweep.conduct(title=title, command=options.this_command(), shard=shard, dry_run=dry_run, table=table)


def extensions(tree: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the configuration has beyond a plain run: a name, and the sections that take it out."""
    if tree["combiner"]["name"] != "sum":
        yield f"without {tree['combiner']['name']}", {"combiner": {"name": "sum"}}
    if tree["scheduler"]["name"] != "constant":
        yield f"without the {tree['scheduler']['name']} schedule", {"scheduler": {"name": "constant"}}
    if tree["train"]["patience"]:
        yield "without early stopping", {"train": {**tree["train"], "patience": 0}}
    for number, choice in enumerate(tree["augment"]):
        left = [other for place, other in enumerate(tree["augment"]) if place != number]
        again = sum(other["name"] == choice["name"] for other in tree["augment"][:number])
        yield f"without {choice['name']}{f' ({again + 1})' if again else ''}", {"augment": left}
    mixer = tree["mixer"]
    caps = mixer.get("per_task")
    if isinstance(caps, Mapping) and caps and str(mixer.get("rows")) == "none":
        for task in caps:
            left_caps = {name: cap for name, cap in caps.items() if name != task}
            yield f"without the cap on {task}", {"mixer": {**mixer, "per_task": left_caps}}
    elif mixer["name"] != "all":
        yield f"without the mixer {mixer['name']}", {"mixer": {"name": "all"}}
    yield from _of_heads(tree)
    encoder = tree["encoder"]
    if encoder.get("pair", "standard") != "standard":
        yield f"without the pair format {encoder['pair']}", {"encoder": {**encoder, "pair": "standard"}}
    for section, key, plain in _SETTINGS:
        if tree[section].get(key, plain) != plain:
            left_over = {name: value for name, value in tree[section].items() if name != key}
            yield f"without {key.replace('_', ' ')}", {section: left_over}
    if "init" in tree:
        yield "without the warm start", {"init": None}


_SETTINGS = (
    ("model", "projection", None),
    ("model", "freeze", None),
    ("model", "head_warmup", 0),
    ("optim", "layer_decay", 1.0),
    ("optim", "head_lr", None),
)


def _of_heads(tree: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """R-Drop, and pairs that are read as one sequence."""
    tasks = tree["tasks"]
    heads = {name: task.get("head") for name, task in tasks.items()}
    if any(str((head or {}).get("rdrop", 0)) not in ("0", "0.0") for head in heads.values()):
        plain = {n: {k: v for k, v in head.items() if k != "rdrop"} for n, head in heads.items() if head}
        yield "without R-Drop", {"tasks": {n: {**t, "head": plain[n]} if n in plain else t for n, t in tasks.items()}}
    joint = {}
    for name, task in tasks.items():
        built = options.built_task(tree, name)
        head = heads[name] or {"name": built.default_head}
        if built.paired and head["name"] in ("linear", "mlp"):
            kept = {key: value for key, value in head.items() if key in ("dropout", "rdrop")}
            joint[name] = {**task, "head": {"name": "concat", **kept}}
    if joint:
        yield "without joint pairs", {"tasks": {**tasks, **joint}}


def by_seed(sweep: Sweep, cell: Any, column: str) -> dict[int, float]:
    """Seed -> the finished run's score of a task, or `mean`."""
    found = {r.seed: r.aggregate if column == "mean" else r.scores.get(column) for r in sweep.results(cell)}
    return {seed: score for seed, score in found.items() if score is not None}


def compared(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    from mtk import paired_difference

    return paired_difference(ours, theirs)


def verdicts(rows: Any) -> list[str]:
    """Which differences exceed the noise, in words."""
    pairs = max((d.pairs for row in rows for d in row.differences.values()), default=0)
    if pairs < 2:
        return ["One seed tells nothing of noise: give --seeds 3 or more for intervals."]
    lines = [f"Differences are paired over {pairs} seeds; [low, high] is Student's 95% interval, * excludes 0."]
    clear = [
        f"{row.name}: {column} {d.mean:+.4f}"
        for row in rows
        for column, d in row.differences.items()
        if d.exceeds_noise
    ]
    tests = sum(len(row.differences) for row in rows)
    lines.append(f"Beyond the noise: {'; '.join(clear)}." if clear else "No difference exceeds the noise.")
    lines.append(f"Of {tests} intervals at 95%, about {tests / 20:.0f} would exclude 0 by chance alone.")
    return lines
