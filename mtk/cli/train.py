"""`mtk train`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mtk.config import RunConfig
    from mtk.session import Session

WHAT, HOW, MODEL, WHERE = "What is trained", "How it is trained", "The model", "Where it runs and what it writes"


def _option(panel: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False, **more)


def train(
    task: Annotated[
        list[str] | None,
        _option(
            WHAT,
            "A task: NAME, NAME:OPTION=VALUE, OTHER=NAME to name it apart, or FILE.toml for rows of your own (mtk task "
            "init writes one). Repeatable. Beside --config: in place of that file's tasks.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        _option(
            WHAT,
            "The folder of the tasks' files (default: $MTK_DATA, else fetched files, else the sample).",
        ),
    ] = None,
    sample: Annotated[
        bool, _option(WHAT, "Train on the built-in sample, whatever other data there are.", "--sample")
    ] = False,
    max_train_rows: Annotated[int | None, _option(WHAT, "Use at most so many training rows of each task.")] = None,
    max_length: Annotated[int | None, _option(WHAT, "Cut sequences to so many tokens (default: 128).")] = None,
    augment: Annotated[list[str] | None, _option(WHAT, "An augmentation of training rows. Repeatable.")] = None,
    init: Annotated[
        Path | None, _option(WHAT, "Start from a finished run's weights; tasks may be added or dropped.")
    ] = None,
    combiner: Annotated[
        str | None, _option(HOW, "How the tasks' gradients become one: NAME or NAME:OPTION=VALUE (default: sum).")
    ] = None,
    epochs: Annotated[int | None, _option(HOW, "Epochs at most (default: 3).")] = None,
    max_steps: Annotated[int | None, _option(HOW, "Optimizer steps at most.")] = None,
    batch_size: Annotated[
        list[str] | None, _option(HOW, "Rows per task and step: N, or TASK=N. Repeatable (default: 8).")
    ] = None,
    accumulate: Annotated[
        int | None,
        _option(HOW, "Split every step into so many passes: less memory, the same gradient but for dropout's draws."),
    ] = None,
    step: Annotated[
        str | None,
        _option(
            HOW, "What a step holds: all, a batch of every task, or one, each task's batch in turn (default: all)."
        ),
    ] = None,
    mixer: Annotated[
        str | None, _option(HOW, "Rows per task and epoch: NAME or NAME:OPTION=VALUE (default: capped, 8,000 rows).")
    ] = None,
    task_weight: Annotated[list[str] | None, _option(HOW, "TASK=WEIGHT of its loss. Repeatable.")] = None,
    lr: Annotated[float | None, _option(HOW, "Peak learning rate (default: 7e-05).")] = None,
    head_lr: Annotated[float | None, _option(HOW, "Peak learning rate of the heads (default: --lr).")] = None,
    layer_decay: Annotated[
        float | None,
        _option(HOW, "Factor on the learning rate from each encoder layer to the one below it (default: 1)."),
    ] = None,
    freeze: Annotated[
        str | None,
        _option(HOW, "Leave as they are: embeddings, encoder, or N: the embeddings and the first N layers."),
    ] = None,
    head_warmup: Annotated[
        int | None, _option(HOW, "Epochs at the start in which the encoder rests (default: 0).")
    ] = None,
    weight_decay: Annotated[
        float | None, _option(HOW, "AdamW's weight decay, on matrices only (default: 0.01).")
    ] = None,
    max_norm: Annotated[
        float | None, _option(HOW, "Clip the gradient to this norm; 0 does not clip (default: 1).")
    ] = None,
    nonfinite: Annotated[
        str | None,
        _option(
            HOW,
            "When a task's loss or gradient is not finite: stop, or skip, which lets the task sit out that step "
            "(default: stop).",
        ),
    ] = None,
    diagnose: Annotated[
        str | None,
        _option(
            HOW,
            "Gradient norms and cosines of the tasks, into metrics.jsonl: whole, layers or none (default: whole). "
            "Needs steps of several tasks.",
        ),
    ] = None,
    diagnose_every: Annotated[
        int | None,
        _option(HOW, "Diagnose every so many steps where the combiner needs no Gramian anyway (default: 20)."),
    ] = None,
    scheduler: Annotated[
        str | None, _option(HOW, "The learning rate over the run: NAME or NAME:OPTION=VALUE (default: linear).")
    ] = None,
    patience: Annotated[
        int | None, _option(HOW, "Stop after so many epochs without a better score; 0 never does (default: 2).")
    ] = None,
    min_gain: Annotated[
        float | None,
        _option(HOW, "What a score must rise by to count for --patience (default: 0). The best epoch is kept anyway."),
    ] = None,
    score_train: Annotated[
        int | None,
        _option(HOW, "Score so many training rows of each task too after every epoch, without dropout (default: 0)."),
    ] = None,
    select_on: Annotated[
        str | None,
        _option(HOW, "The score that picks the best epoch: aggregate, TASK or TASK.METRIC (default: aggregate)."),
    ] = None,
    encoder: Annotated[
        str | None,
        _option(MODEL, "minilm, bert-base, a folder, OWNER/NAME on the Hub, or hf:OWNER/NAME (default: minilm)."),
    ] = None,
    head: Annotated[
        list[str] | None,
        _option(MODEL, "A task's head: TASK=NAME, or NAME for all. Repeatable (default: the task's own)."),
    ] = None,
    projection: Annotated[
        str | None,
        _option(
            MODEL,
            "A linear layer between encoder and heads that all tasks share: its units, hidden for the encoder's own "
            "size, or none (default: none).",
        ),
    ] = None,
    dropout: Annotated[
        float | None, _option(MODEL, "Dropout of the heads, and before the projection (default: 0.1).")
    ] = None,
    encoder_dropout: Annotated[
        float | None, _option(MODEL, "Dropout of the encoder (default: its checkpoint's).")
    ] = None,
    seed: Annotated[int | None, _option(WHERE, "Fixes everything that is drawn (default: 11711).")] = None,
    seeds: Annotated[int, _option(WHERE, "Repeat with so many seeds, counting up; shows mean and spread.", min=1)] = 1,
    precision: Annotated[
        str | None, _option(WHERE, "auto, where a probe decides, fp32 or bf16 (default: auto).")
    ] = None,
    device: Annotated[str | None, _option(WHERE, "auto, cpu, cuda or mps (default: auto).")] = None,
    threads: Annotated[int | None, _option(WHERE, "CPU threads (default: torch's own choice).")] = None,
    out: Annotated[
        Path | None, _option(WHERE, "The run folder, new or empty (default: runs/DATE-TASKS-COMBINER).")
    ] = None,
    resume: Annotated[
        Path | None, _option(WHERE, "Go on with an interrupted run, exactly; settings cannot change.")
    ] = None,
    recipe: Annotated[
        str | None,
        _option(WHAT, "A recipe to start from: mtk recipes lists them. --config and options override it."),
    ] = None,
    config: Annotated[
        Path | None, _option(WHERE, "A TOML file, such as a run's config.toml; options override it.")
    ] = None,
    set_: Annotated[
        list[str] | None, _option(WHERE, "SECTION.KEY=VALUE of the configuration. Repeatable.", "--set")
    ] = None,
    dry_run: Annotated[
        bool, _option(WHERE, "Build everything, print the plan and the configuration, train nothing.", "--dry-run")
    ] = False,
) -> int:
    """Train one shared encoder on several tasks.

    mtk train --task sst --task sts --combiner pcgrad
    """  # fmt: skip
    flat = dict(
        data=data, sample="always" if sample else None, max_train_rows=max_train_rows, max_length=max_length,
        augment=augment, init=init, combiner=combiner, epochs=epochs, max_steps=max_steps, batch_size=batch_size,
        accumulate=accumulate, step=step, mixer=mixer, task_weight=task_weight, lr=lr, head_lr=head_lr,
        layer_decay=layer_decay, freeze=freeze, head_warmup=head_warmup, weight_decay=weight_decay, max_norm=max_norm,
        scheduler=scheduler, patience=patience, min_gain=min_gain, score_train=score_train, select_on=select_on,
        encoder=encoder, head=head, projection=projection, dropout=dropout, encoder_dropout=encoder_dropout, seed=seed,
        precision=precision, device=device, threads=threads, nonfinite=nonfinite, diagnose=diagnose,
        diagnose_every=diagnose_every,
    )  # fmt: skip
    given = {name: str(value) if isinstance(value, Path) else value for name, value in flat.items()}
    from mtk import session
    from mtk.display import make_console, show_plan
    from mtk.errors import ConfigError
    from mtk.run import default_out
    from mtk.settings import configure, tree_of

    if resume is not None:
        if out is not None or seeds > 1 or dry_run:
            raise ConfigError("--resume goes on in the run's own folder: give it no --out, --seeds or --dry-run")
        beside = tree_of(recipe=recipe, config=config, tasks=task or [], settings=set_ or [], **given)
        return _train(session.resume(resume, beside))
    chosen = configure(recipe=recipe, config=config, tasks=task or [], settings=set_ or [], **given)
    if dry_run:
        console = make_console()
        dry = session.start(chosen, None)
        show_plan(dry, console)
        console.print("\ndry run: nothing was trained or written; the configuration:\n")
        typer.echo(dry.parts.config.to_toml())
        return 0
    command = shlex.join(["mtk", *sys.argv[1:]])
    place = out or default_out(chosen)
    if seeds == 1:
        return _train(session.start(chosen, place, command))
    return _train_seeds(chosen, seeds, place, command)


def _train_seeds(config: RunConfig, seeds: int, place: Path, command: str) -> int:
    from mtk import session
    from mtk.api import Interrupted, drive
    from mtk.display import Display, make_console, say, show_spread
    from mtk.run import RunFolder

    RunFolder.check_out(place)
    console, folders = make_console(), []
    for number in range(seeds):
        one = config.model_copy(deep=True)
        one.train.seed = config.train.seed + number
        run = session.start(one, place / f"seed-{one.train.seed}", command)
        assert run.folder is not None
        try:
            drive(run, Display(run, console, number))
        except Interrupted as error:
            left = seeds - number - 1
            if left or error.finished.reason == "stopped":
                say(console, _remaining(one.train.seed + 1, left, place))
                return 128 + error.number
        folders.append(run.folder)
    show_spread(folders, console)
    return 0


def _remaining(seed: int, seeds: int, place: Path) -> str:
    """How an interrupted command with --seeds goes on, and what that does not give."""
    lost = "no command joins their scores: mean and spread over all seeds are left to you"
    if not seeds:
        return f"this was the last seed; {lost} (mtk runs {place})"
    other = place.with_name(f"{place.name}-more")
    return (
        f"then for the {'seed' if seeds == 1 else f'{seeds} seeds'} not begun: the same command with --seed {seed} "
        f"--seeds {seeds} --out {other}; {lost} (mtk runs {place} {other})"
    )


def _train(run: Session) -> int:
    """Trains to the end or to the first interruption."""
    from mtk.api import Interrupted, drive
    from mtk.display import Display

    try:
        drive(run, Display(run))
    except Interrupted as error:
        return 128 + error.number if error.finished.reason == "stopped" else 0
    return 0
