"""A search as people see it: the plan, a live table or plain lines, the best, and the runs that confirm it."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from mtk.api import signals
from mtk.display import count, duration, leak_warning, make_console, say, show_table
from mtk.errors import CheckpointError
from mtk.findings import scheduled, with_epochs
from mtk.interfaces import TrialRecord
from mtk.notices import is_broken_pipe, silence
from mtk.reports import write_reports
from mtk.run import RunFolder
from mtk.search import Search, TrialEvent
from mtk.searchfolder import go_on
from mtk.sweep import Cell, Sweep

INTERRUPTED = "interrupted: saving the running trial ... (once more ends at once, unsaved)"
_SHOWN = 20  # trials in the live table, the newest


def conduct(search: Search) -> int:
    """Runs the search, showing it, and then its final runs. Returns the exit code: 130 or 143 where it was stopped."""
    console = make_console()
    caught: list[int] = []

    def interrupt(number: int, frame: Any) -> None:
        caught.append(number)
        if len(caught) > 1:
            raise KeyboardInterrupt
        search.stop()
        with contextlib.suppress(Exception):
            print(INTERRUPTED, file=sys.stderr, flush=True)

    def leave(number: int, frame: Any) -> None:
        caught.append(number)
        raise KeyboardInterrupt

    try:
        with contextlib.closing(search), signals(interrupt):
            show_plan(search, console)
            with _Display(search, console) as display, contextlib.closing(search.run()) as events:
                for event in events:
                    display.show(event)
            show_end(search, console)
        with signals(leave):
            write_reports(search.record(), search.folder, console)
        if not caught:
            with signals(leave):
                return confirm(search, console)
        saved = "stopped and saved; "
    except KeyboardInterrupt:
        saved = ""
    if search.ended is None or search.plan.final_seeds:
        say(console, f"{saved}go on where it was: {go_on(search.folder)}")
    return 128 + (caught[0] if caught else signal.SIGINT)


def show_plan(search: Search, console: Console) -> None:
    plan = search.plan
    say(
        console,
        f"tuner {plan.tuner} | {count(plan.trials, 'trial')} of at most {count(plan.config.train.epochs, 'epoch')}"
        + (f", {plan.slots} at a time" if plan.slots > 1 else ""),
    )
    for key, domain in plan.space.items():
        say(console, f"  {key}: {domain.text()}")
    limits = [
        *([count(plan.max_epochs, "epoch") + " of all trials together"] if plan.max_epochs else []),
        *([duration(plan.max_hours * 3600)] if plan.max_hours else []),
    ]
    if limits:
        say(console, f"at most {' and '.join(limits)}")
    for line in search.place:
        say(console, line)
    if search.trials:
        say(console, f"resuming after {count(search.ledger.epochs, 'epoch')}")
    say(console, f"score: {plan.config.train.select_on} on dev | folder: {search.folder}")
    if search.room:
        say(console, f"warning: {search.room}")


class _Display:
    """A live table on a terminal, a line an event elsewhere."""

    def __init__(self, search: Search, console: Console) -> None:
        self._search, self._console = search, console
        self._live: Live | None = None
        self._gone = False

    def __enter__(self) -> _Display:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, event: TrialEvent) -> None:
        """Shows it as long as there is somebody who reads; the search goes on without."""
        if self._gone:
            return
        try:
            self._show(event)
        except (OSError, SystemExit) as error:
            if isinstance(error, SystemExit) and not is_broken_pipe(error):
                raise
            self._gone = True
            silence()

    def _show(self, event: TrialEvent) -> None:
        if self._live is not None:
            self._live.update(trials_table(self._search, self._search.trials[-_SHOWN:]))
            return
        trial, best = event.trial, self._search.best
        text = f"[{duration(event.seconds)}] trial {trial.number}: "
        if event.kind == "begun":
            text += _origin(trial) if trial.scores else _parameters(trial)
        elif event.kind == "epoch":
            text += f"epoch {len(trial.scores)}, score {trial.scores[-1]:.4f}"
            text += f" | best {best.best:.4f} (trial {best.number})" if best is not None else ""
        else:
            text += event.kind + (f": {event.problem}" if event.problem else "")
        say(self._console, text)


def trials_table(search: Search, trials: list[TrialRecord]) -> Table:
    """A line a trial: state, epochs, scores, whose weights it took over, and parameters."""
    best = search.best
    forks = any(len(trial.stages) > 1 for trial in search.trials)
    table = Table("trial", "state", "epochs", "last", "best", *(["weights from"] if forks else []), *search.plan.space)
    for trial in trials:
        last = f"{trial.scores[-1]:.4f}" if trial.scores else "-"
        mark = " *" if best is not None and trial.number == best.number and trial.best == best.best else ""
        top = f"{trial.best:.4f}{mark}" if trial.scores else "-"
        values = [_value(trial.parameters.get(key, "-")) for key in search.plan.space]
        origin = [_chain(trial)] if forks else []
        table.add_row(str(trial.number), trial.state, str(len(trial.scores)), last, top, *origin, *values)
    return table


def show_end(search: Search, console: Console) -> None:
    """Every trial, why it ended, the best and what to do with it."""
    stacked = [
        f"trial {t.number}: {t.state}, {count(len(t.scores), 'epoch')}, best {t.best:.4f}: {_parameters(t)}"
        for t in search.trials
    ]
    show_table(trials_table(search, search.trials), stacked, console)
    counts = ", ".join(f"{number} {kind}" for kind, number in search.record().counts.items() if kind != "running")
    say(console, f"{counts}; {count(search.ledger.epochs, 'epoch')} in all")
    for trial in search.trials:
        if trial.state == "failed":
            say(console, f"trial {trial.number} failed: {trial.problem}")
    if search.ended:
        say(console, f"ended: {search.ended}")
    best = search.best
    if best is None:
        ended = any(trial.scores for trial in search.trials)
        number = f"no epoch has a number as its {search.plan.config.train.select_on}"
        say(console, f"{number if ended else 'no trial has ended an epoch'}: there is no best")
        return
    epoch = best.scores.index(best.best) + 1
    say(console, f"best: trial {best.number}, epoch {epoch}, {search.plan.config.train.select_on} {best.best:.4f}")
    for key, value in best.parameters.items():
        say(console, f"  {key} = {_value(value)}")
    again = shlex.join(["mtk", "train", "--config", str(search.folder / "best.toml")])
    say(console, f"its settings: {again} | its model: {search.folder / 'best'}")
    with contextlib.suppress(CheckpointError):  # somebody may have moved it away
        if leaks := RunFolder(search.folder / "best").facts.get("leaks"):
            say(console, leak_warning(leaks))
    if len(best.stages) > 1:
        replay = shlex.join(["mtk", "train", "--config", str(search.folder / "best_schedule.toml")])
        say(console, f"its settings changed on the way ({_chain(best)}); the whole way: {replay}")


def confirm(search: Search, console: Console) -> int:
    """The best settings and the untuned ones, trained with fresh seeds: the search's own score is an optimistic one."""
    plan, best = search.plan, search.best
    if not plan.final_seeds or best is None:
        return 0
    seed = plan.config.train.seed + 1  # not the seed that chose them
    epochs = plan.final_epochs or plan.config.train.epochs
    cells = [
        Cell("untuned", with_epochs(search.config_of({}), epochs)),
        Cell("tuned", with_epochs(search.config_of(best.parameters), epochs)),
    ]
    if len(best.stages) > 1:
        cells.append(Cell("tuned schedule", scheduled(best.stages, search.config_of, epochs)))
    sweep = Sweep(search.folder / "final", cells, [seed + i for i in range(plan.final_seeds)])
    return sweep.conduct(title="Tuned against untuned", command=go_on(search.folder), console=console)


def _chain(trial: TrialRecord) -> str:
    """How its weights came to be: 3 > 5 after epoch 2."""
    first, *rest = trial.stages
    return " > ".join([str(first.trial), *(f"{stage.trial} after epoch {stage.after}" for stage in rest)])


def _origin(trial: TrialRecord) -> str:
    *before, stage = trial.stages
    if not before or stage.after != len(trial.scores):
        return "goes on"
    return f"takes over the weights of trial {before[-1].trial}: {_parameters(trial)}"


def _parameters(trial: TrialRecord) -> str:
    return ", ".join(f"{key} {_value(value)}" for key, value in trial.parameters.items())


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
