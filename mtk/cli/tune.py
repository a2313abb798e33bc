"""`mtk tune`: a search for good settings that can be left alone, killed and resumed; `mtk tune report` draws it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mtk.space import Space

WHAT, HOW, WHERE = "What is trained", "How it is searched", "Where it runs and what it writes"


app = typer.Typer(invoke_without_command=True)


def _option(panel: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False, **more)


@app.callback()
def tune(
    context: typer.Context,
    task: Annotated[list[str] | None, _option(WHAT, "A task, as in mtk train. Repeatable.")] = None,
    recipe: Annotated[str | None, _option(WHAT, "A recipe to start from; mtk recipes lists them.")] = None,
    config: Annotated[Path | None, _option(WHAT, "A TOML file to start from, such as a run's config.toml.")] = None,
    data: Annotated[Path | None, _option(WHAT, "The folder of the tasks' files.", metavar="DIR")] = None,
    sample: Annotated[bool, _option(WHAT, "Train on the built-in sample: for trying things out.", "--sample")] = False,
    max_train_rows: Annotated[int | None, _option(WHAT, "Use at most so many training rows of each task.")] = None,
    encoder: Annotated[str | None, _option(WHAT, "The encoder, as in mtk train.")] = None,
    combiner: Annotated[str | None, _option(WHAT, "The combiner, as in mtk train.")] = None,
    set_: Annotated[
        list[str] | None, _option(WHAT, "SECTION.KEY=VALUE of the configuration. Repeatable.", "--set")
    ] = None,
    space: Annotated[
        list[str] | None,
        _option(
            HOW,
            "SECTION.KEY=DOMAIN to search: uniform(a,b), loguniform(a,b), quniform(a,b,q), randint(a,b), "
            "choice(a,b,c), grid(a,b,c) or a value. Repeatable.",
            metavar="KEY=DOMAIN",
        ),
    ] = None,
    space_from: Annotated[
        str | None,
        _option(HOW, "The space of a TOML file or of a recipe, such as paper (default: --recipe's, if it has one)."),
    ] = None,
    tuner: Annotated[
        str | None,
        _option(HOW, "What decides: asha, random, grid, optuna, pbt, ray-asha, or NAME:OPTION=VALUE (default: asha)."),
    ] = None,
    trials: Annotated[
        int | None, _option(HOW, "Trials that may begin; of pbt, its population (default: 20).", min=1)
    ] = None,
    epochs: Annotated[int | None, _option(HOW, "Epochs of a whole trial (default: the configuration's).")] = None,
    max_steps: Annotated[int | None, _option(HOW, "Optimizer steps of a trial at most.")] = None,
    max_epochs: Annotated[int | None, _option(HOW, "Epochs of all trials together at most.", min=1)] = None,
    max_hours: Annotated[float | None, _option(HOW, "Hours of the whole search at most.", min=0)] = None,
    seed: Annotated[int | None, _option(HOW, "Fixes what is drawn, and is every trial's own seed.")] = None,
    final_seeds: Annotated[
        int | None,
        _option(HOW, "Then train the best, and the untuned settings, with so many seeds (default: 0).", min=0),
    ] = None,
    final_epochs: Annotated[int | None, _option(HOW, "Epochs of those runs (default: --epochs).", min=1)] = None,
    device: Annotated[str | None, _option(WHERE, "auto, cpu, cuda or mps.")] = None,
    precision: Annotated[str | None, _option(WHERE, "auto, fp32 or bf16.")] = None,
    threads: Annotated[int | None, _option(WHERE, "CPU threads.")] = None,
    slots: Annotated[int | None, _option(WHERE, "Trials that are trained side by side (default: 1).", min=1)] = None,
    ray_address: Annotated[
        str | None,
        _option(
            WHERE, "Train on Ray: auto or HOST:PORT of a running cluster, or local for a private one.", metavar="A"
        ),
    ] = None,
    executor: Annotated[
        str | None,
        _option(WHERE, "Where trials are trained: local, ray, or NAME:OPTION=VALUE (default: local)."),
    ] = None,
    out: Annotated[Path | None, _option(WHERE, "The search's folder, new or empty.")] = None,
    resume: Annotated[Path | None, _option(WHERE, "Go on with a search that was cut off.", metavar="DIR")] = None,
    dry_run: Annotated[bool, _option(WHERE, "Check everything, print the space, train nothing.", "--dry-run")] = False,
) -> int:
    """Search for settings that score well: trials of one configuration with parts of it drawn from a space.

    mtk tune --task sst --task sts --space optim.lr=loguniform(1e-5,5e-4) --trials 12 --epochs 3 --out runs/search
    """
    if context.invoked_subcommand is not None:
        return 0
    from mtk.display import make_console
    from mtk.errors import ConfigError
    from mtk.search import Search
    from mtk.searchfolder import Plan
    from mtk.searchview import conduct, show_plan
    from mtk.settings import configure
    from mtk.space import Space

    flat = dict(
        data=None if data is None else str(data), sample="always" if sample else None, max_train_rows=max_train_rows,
        encoder=encoder, combiner=combiner, epochs=epochs, max_steps=max_steps, seed=seed, device=device,
        precision=precision, threads=threads,
    )  # fmt: skip
    if ray_address is not None:
        if executor is not None:
            raise ConfigError("--ray-address A is short for --executor ray:address=A: give one of them")
        executor = f"ray:address={ray_address}"
    if resume is not None:
        how = dict(
            task=task, recipe=recipe, config=config, set=set_, space=space, space_from=space_from, tuner=tuner,
            trials=trials, max_epochs=max_epochs, max_hours=max_hours, final_seeds=final_seeds,
            final_epochs=final_epochs, out=out, dry_run=dry_run or None,
        )  # fmt: skip
        given = [f"--{key.replace('_', '-')}" for key, value in {**flat, **how}.items() if value not in (None, [])]
        if given:
            raise ConfigError(f"--resume goes on with the search as it was begun: leave out {', '.join(given)}")
        return conduct(Search.resume(resume, slots, executor))
    chosen = configure(recipe=recipe, config=config, tasks=task or [], settings=set_ or [], **flat)
    found = Space({**_space_from(space_from, recipe), **Space.parse(space or [])})
    if not found:
        raise ConfigError("nothing to search: expected --space KEY=DOMAIN, --space-from FILE or a recipe with a space")
    plan = Plan(
        chosen, found, tuner or "asha", trials or 20, max_epochs, max_hours, final_seeds or 0, final_epochs,
        slots or 1, executor or "local",
    )  # fmt: skip
    if out is None and not dry_run:
        raise ConfigError("mtk tune needs --out DIR, a new folder that keeps the trials, or --resume DIR")
    if out is None or dry_run:
        show_plan(Search.planned(out or Path("-"), plan), make_console())
        typer.echo("dry run: nothing was trained or written")
        return 0
    return conduct(Search.create(out, plan, shlex.join(["mtk", *sys.argv[1:]])))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A search's folder; the search may be going on.")],
) -> int:
    """Write the reports of a search again: tables, and a page with plots of scores, parameters and lineage."""
    from mtk.display import make_console
    from mtk.reports import write_reports
    from mtk.searchfolder import read_record

    write_reports(read_record(folder), folder, make_console())
    return 0


def _space_from(name: str | None, recipe: str | None) -> Space:
    """The space of a file or recipe; of the recipe that is tuned, where none is named; else an empty one.

    A recipe's owner stands for the only space among his recipes: `paper` for that of paper/final.
    """
    from mtk import plugins
    from mtk.recipes import load_recipe
    from mtk.space import Space, load_space

    known = {n for r in plugins.registered("recipe").values() for n in r.names}
    chosen = name or recipe
    if name is not None and name not in known:
        own = [space for n in known if n.startswith(f"{name}/") and (space := load_recipe(n).space)]
        if not own or any(space != own[0] for space in own):
            return load_space(name)
        return Space.parse(own[0])
    return Space.parse(load_recipe(chosen).space if chosen is not None else {})
