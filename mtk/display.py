"""What a training run shows: the plan before it, a live line or plain lines during it, the scores after it."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from mtk.assembly import head_inputs
from mtk.config import OptimConfig
from mtk.evaluation import Scores
from mtk.notices import REAL_DATA, SAMPLE, silence
from mtk.run import RunFolder
from mtk.scoretable import Difference, ScoreRow, ScoreTable
from mtk.session import Session, leak_facts
from mtk.training import EpochDone, Event, Finished, StepDone

PLAIN_EVERY = 20.0  # seconds between progress lines where there is no terminal
RECENT = 50  # steps that the shown losses and rates are means of


class _Console(Console):
    """Falls silent when its reader goes away (`| head`), where rich would end the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        silence()


def make_console() -> Console:
    """Standard output; as wide as it needs to be where it is no terminal."""
    console = _Console(highlight=False, emoji=False, markup=False)
    return console if console.is_terminal else _Console(highlight=False, emoji=False, markup=False, width=200)


def say(console: Console, text: str) -> None:
    """A line, wrapped at words on a terminal, and whole where it goes to a file."""
    console.print(text, soft_wrap=not console.is_terminal, markup=False, highlight=False)


class Display:
    """Shows a session's plan at `start`, and every event that `show` is given.

    place: of a run with several seeds, which one this is, from 0. The first shows the plan, and all a line at the end.
    """

    def __init__(self, session: Session, console: Console | None = None, place: int | None = None) -> None:
        self.session = session
        self.console = console or make_console()
        self.place = place
        self._live: Live | None = None
        self._recent: deque[tuple[float, StepDone]] = deque(maxlen=RECENT)
        self._said = time.monotonic()
        self._estimated = False
        self._epoch_seconds = 0.0
        self._warned = False

    def start(self) -> None:
        """The plan, or a line where another seed has shown it."""
        if not self.place:
            show_plan(self.session, self.console)
        elif self.session.folder is not None:
            say(self.console, f"seed {self.session.parts.config.train.seed}: run folder {self.session.folder.path}")
        self._said = time.monotonic()

    def show(self, event: Event) -> None:
        if isinstance(event, StepDone):
            self._step(event)
        elif isinstance(event, EpochDone):
            self._close()
            self._epoch_seconds = event.seconds
            say(self.console, epoch_line(event, self.session.parts.config.train.epochs))
            if (undefined := undefined_line(event)) and not self._warned:
                say(self.console, undefined)
                self._warned = True
            self._recent.clear()
            self._said = time.monotonic()
        elif isinstance(event, Finished):
            self._close()
            assert self.session.folder is not None
            if self.place is None or event.reason == "stopped":
                show_end(event, self.session.folder, self.console)
            else:
                say(self.console, end_line(event, self.session.folder))

    def interject(self, text: str) -> bool:
        """Prints a line above the live line; False where there is none, and so nothing to spoil."""
        if self._live is None:
            return False
        say(self.console, text)
        return True

    def close(self) -> None:
        """Ends the live line, whatever happened."""
        self._close()

    def _close(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def _step(self, event: StepDone) -> None:
        self._recent.append((time.monotonic(), event))
        if not self._estimated and len(self._recent) >= 20 and not self.session.training.resting:
            self._estimated = True
            left = duration(self._left(event))
            say(self.console, f"estimated: at most {left} for {event.total - event.done:,} steps, evaluation apart")
        if self.console.is_terminal:
            if self._live is None:
                self._live = Live(console=self.console, refresh_per_second=4, transient=True)
                self._live.start()
            self._live.update(self._line(event))
        elif time.monotonic() - self._said >= PLAIN_EVERY:
            self._said = time.monotonic()
            say(self.console, self._line(event))

    def _left(self, event: StepDone) -> float:
        first, last = self._recent[0], self._recent[-1]
        steps = max(1, last[1].done - first[1].done)
        return (last[0] - first[0]) / steps * (event.total - event.done)

    def _line(self, event: StepDone) -> str:
        recent = [step for _, step in self._recent]
        losses = " ".join(
            f"{name} {statistics.fmean(step.losses[name] for step in recent if name in step.losses):.3f}"
            for name in event.losses
        )
        pairs = [(s.report.conflicts, len(s.report.tasks)) for s in recent if s.report.conflicts is not None]
        possible = sum(tasks * (tasks - 1) // 2 for _, tasks in pairs)
        conflicts = f" | conflicts {sum(c for c, _ in pairs) / possible:.0%} of pairs" if possible else ""
        seconds = self._recent[-1][0] - self._recent[0][0]
        rate = f" | {sum(s.rows for s in recent[1:]) / seconds:.0f} rows/s" if seconds > 0 else ""
        epochs = self.session.parts.config.train.epochs
        return (
            f"epoch {event.epoch + 1}/{epochs} step {event.step}/{event.steps} | loss {losses}{conflicts}{rate}"
            f" | ETA {duration(self._left(event))}"
        )


def show_plan(session: Session, console: Console) -> None:
    """Tasks, rows, caps, truncated share, batches, parameters, precision: what is about to happen."""
    parts = session.parts
    shared, own = parts.model.parameter_counts()
    rows_of, sizes = parts.plan.rows(parts.train, 0), parts.plan.batch_sizes
    table = Table("task", "head", "train rows", "rows/epoch", "batches/epoch", "truncated", "dev rows", "head params")
    stacked = []
    for name, task in parts.tasks.items():
        head = type(parts.model.head(name)).__name__
        train, dev = parts.train.get(name), len(parts.dev[name])
        if train is None:
            cells, told = ["evaluated only", "-", "-", "-"], "evaluated only"
        else:
            batches = -(-rows_of[name] // sizes[name])
            share = f"{train.truncated / len(train):.1%}"
            cells = [f"{len(train):,}", f"{rows_of[name]:,}", f"{batches:,} of {sizes[name]}", share]
            told = (
                f"{count(len(train), 'train row')}, {rows_of[name]:,} an epoch in "
                f"{count(batches, 'batch', 'batches')} of {sizes[name]}, {share} truncated"
            )
        table.add_row(name, head, *cells, f"{dev:,}", f"{own[name]:,}")
        stacked.append(f"{name}: head {head}, {told}, {count(dev, 'dev row')}, {count(own[name], 'head parameter')}")
        if task.bad:
            say(console, f"note: task '{name}': {count(len(task.bad), 'bad row')} left out: {task.bad[0]}")
    show_table(table, stacked, console)
    for line in changing_rows(session):
        say(console, line)
    for change in parts.config.changes:
        settings = ", ".join(f"{key.removesuffix('.name')} {value}" for key, value in change.leaves())
        say(console, f"from epoch {change.after + 1}: {settings}")
    config, hardware = parts.config, parts.hardware
    say(
        console,
        f"encoder {config.encoder.name}: {shared:,} shared parameters{frozen(session)}{projected(session)}"
        f"{rests(session)} | combiner {config.combiner.name} | scheduler {config.scheduler.name} | mixer "
        f"{config.mixer.name} | step {config.train.step}",
    )
    if parts.combiner.needs in ("gram", "gradients"):
        say(console, f"gradients by task: {passes(session)}")
    patience = config.train.patience
    stops = (
        f"stops after {count(patience, 'epoch')} without a better {config.train.select_on}{gain(config.train.min_gain)}"
        if patience
        else f"does not stop early | keeps the best {config.train.select_on}"
    )
    say(
        console,
        f"{hardware.device}, {hardware.precision}, {count(hardware.threads, 'thread')} | at most "
        f"{count(session.training.total, 'step')} in {count(config.train.epochs, 'epoch')} | lr "
        f"{rates(config.optim)} | seed {config.train.seed} | {stops}",
    )
    for name, task in parts.tasks.items():
        say(console, f"data of {name}: {task.source.origin}")
        for note in task.notes:
            say(console, f"  {note}")
    if leaks := leak_facts(parts):
        say(console, leak_warning(leaks))
    if session.fresh:
        say(console, f"not from that run, starts fresh: {', '.join(session.fresh)}")
    if any(task.source.sample for task in parts.tasks.values()):
        show_sample_warning(console)
    if session.folder is not None:
        at = session.training.position
        if at.done:
            say(console, f"resuming at epoch {at.epoch + 1}, after step {at.done:,}")
        say(console, f"run folder: {session.folder.path}")


def leak_warning(leaks: Sequence[Mapping[str, Any]]) -> str:
    """Which tasks' dev scores flatter, the worst first, since another task trains on their texts; what to do.

    leaks: as run.json holds them.
    """
    worst = sorted(leaks, key=lambda leak: -leak["leaked"] / leak["dev_rows"])
    some = [
        f"{one['leaked']:,} of the {one['dev_rows']:,} {one['task']} dev rows ({one['trained_by']})"
        for one in worst[:3]
    ]
    more = f", and so in {count(len(leaks) - 3, 'more pair')} of tasks" if len(leaks) > 3 else ""
    return (
        f"warning: another task trains on {', '.join(some)}{more}: scores on these flatter; give tasks on the same "
        "rows the same split; mtk data check names the rows"
    )


def frozen(session: Session) -> str:
    """How many of the shared parameters never train, where some do not."""
    model, optimizer = session.parts.model, session.training.optimizer
    learning = {p for group in optimizer.param_groups for p in group["params"]}
    heads = set(model.heads.parameters())
    number = sum(p.numel() for p in model.parameters() if p not in learning and p not in heads)
    return f", {number:,} of them frozen" if number else ""


def projected(session: Session) -> str:
    """What the layer between encoder and heads makes, where there is one."""
    model = session.parts.model
    units = head_inputs(session.parts.config, model.encoder.hidden_size)
    return "" if model.projection is None else f" | projection to {units:,} units"


def rests(session: Session) -> str:
    """The epochs in which the encoder rests, where it does."""
    rest, epochs = session.parts.config.model.head_warmup, session.parts.config.train.epochs
    if not rest:
        return ""
    return " | the encoder rests " + ("throughout" if rest >= epochs else f"for the first {count(rest, 'epoch')}")


def rates(optim: OptimConfig) -> str:
    """The peak learning rate, and those that differ from it."""
    others = [] if optim.head_lr is None else [f"heads {optim.head_lr:g}"]
    others += [] if optim.layer_decay == 1 else [f"times {optim.layer_decay:g} a layer down"]
    return f"{optim.lr:g}" + (f" ({', '.join(others)})" if others else "")


def gain(min_gain: float) -> str:
    """What a better score must be better by, where that is more than nothing."""
    return f" by more than {min_gain:g}" if min_gain else ""


def changing_rows(session: Session) -> list[str]:
    """The rows of each epoch, where the mixer does not give every epoch the same; of many epochs some."""
    parts = session.parts
    epochs = range(parts.config.train.epochs)
    rows = [parts.plan.rows(parts.train, epoch) for epoch in epochs]
    if all(one == rows[0] for one in rows):
        return []
    shown = epochs if len(epochs) <= 6 else sorted({0, 1, len(epochs) // 2, len(epochs) - 2, len(epochs) - 1})
    return [
        f"rows in epoch {epoch + 1}: " + ", ".join(f"{name} {number:,}" for name, number in rows[epoch].items())
        for epoch in shown
    ]


def passes(session: Session) -> str:
    """How many backward passes a step takes for gradients by task, and on whose account."""
    slow = session.training.slow_parameters
    if not session.parts.model.shared_parameters():
        return "none while the encoder rests" if session.training.resting else "none, for nothing shared is trained"
    if not slow:
        return "all in one backward pass"
    named = ", ".join(slow[:3]) + (f" and {len(slow) - 3} more" if len(slow) > 3 else "")
    shared = len(session.parts.model.shared_parameters())
    return f"one backward pass, and one more a task for {len(slow)} of {shared} shared parameters ({named})"


def show_table(table: Table, stacked: Sequence[str], console: Console) -> None:
    """The table where the console is wide enough for all of it, else the lines that say the same."""
    wide = console.options.update(width=10_000)
    if console.measure(table, options=wide).maximum <= console.width:
        console.print(table)
    else:
        for line in stacked:
            say(console, line)


def show_sample_warning(console: Console) -> None:
    console.print(Panel(f"{SAMPLE}\n{REAL_DATA}", style="bold yellow", expand=False))


def epoch_line(event: EpochDone, epochs: int) -> str:
    losses = " ".join(f"{name} {value:.3f}" for name, value in event.losses.items())
    best = " [best so far]" if event.is_best else ""
    seen = event.train_scores
    trained = "" if seen is None else f" | on training rows {_main(seen)}"
    return (
        f"epoch {event.epoch + 1}/{epochs} done in {duration(event.seconds)} | train loss {losses}{trained} | dev "
        f"{_main(event.scores)} | aggregate {event.scores.aggregate:.4f}{best}"
    )


def undefined_line(event: EpochDone) -> str:
    """What to make of a main metric that is no number; "" where all are."""
    found = ", ".join(f"{metric} of task '{name}'" for name, metric in event.scores.undefined.items())
    other = "" if math.isfinite(event.selected) else ", or choose the best epoch by another: --select-on TASK.METRIC"
    return found and (
        f"warning: no number: dev {found}; a correlation has none where all predictions, or all labels, are equal; "
        f"look at the task's labels and head{other}"
    )


def _main(scores: Scores) -> str:
    return " ".join(f"{name} {scores.tasks[name][metric]:.4f}" for name, metric in scores.primary.items())


WHY = {"epochs": "all epochs done", "patience": "no gain: stopped early", "max_steps": "--max-steps reached"}


def show_end(event: Finished, folder: RunFolder, console: Console) -> None:
    """Why it ended, the best epoch's dev scores, and what to type next."""
    facts = folder.facts
    if event.reason == "stopped":
        say(console, f"stopped and saved; go on exactly here: mtk train --resume {folder.path}")
        return
    say(console, f"{WHY[event.reason]}; best epoch {facts['best_epoch']}, its dev scores:")
    show_scores(facts["scores"], console)
    if any(entry["sample"] for entry in facts["data"].values()):
        show_sample_warning(console)
    say(console, f"run folder: {folder.path}")
    say(console, f"use it: mtk evaluate {folder.path} | mtk predict {folder.path} --text '...'")


def end_line(event: Finished, folder: RunFolder) -> str:
    """The same in a line, for one of several seeds."""
    facts = folder.facts
    return (
        f"seed {facts['seed']}: {WHY[event.reason]}; best epoch {facts['best_epoch']}, "
        f"dev aggregate {facts['scores']['aggregate']:.4f}"
    )


def show_scores(scores: dict[str, Any] | Scores, console: Console) -> None:
    """Every metric of every task; the primary one first, and the aggregate last."""
    tree = scores.to_dict() if isinstance(scores, Scores) else scores
    table, stacked = Table("task", "metric", "dev", "others"), []
    for name, metrics in tree["tasks"].items():
        main = tree["primary"][name]
        others = ", ".join(f"{metric} {value:.4f}" for metric, value in metrics.items() if metric != main)
        table.add_row(name, main, f"{metrics[main]:.4f}", others)
        stacked.append(f"{name}: {main} {metrics[main]:.4f}" + (f" ({others})" if others else ""))
    table.add_row("aggregate", "mean", f"{tree['aggregate']:.4f}", "")
    show_table(table, [*stacked, f"aggregate: mean {tree['aggregate']:.4f}"], console)


def show_spread(folders: Sequence[RunFolder], console: Console) -> None:
    """Mean and standard deviation over the seeds of one configuration."""
    facts = [folder.facts for folder in folders]
    seeds = [f"seed {f['seed']}" for f in facts]
    table, stacked = Table("score", *seeds, "mean", "sd"), []
    names = list(facts[0]["scores"]["primary"].items())
    rows = [(f"{n} {m}", [f["scores"]["tasks"][n][m] for f in facts]) for n, m in names]
    rows.append(("aggregate", [f["scores"]["aggregate"] for f in facts]))
    for name, values in rows:
        mean = f"{statistics.fmean(values):.4f}"
        spread = f"{statistics.stdev(values):.4f}" if len(values) > 1 else "-"
        table.add_row(name, *[f"{value:.4f}" for value in values], mean, spread)
        each = ", ".join(f"{seed} {value:.4f}" for seed, value in zip(seeds, values, strict=True))
        stacked.append(f"{name}: mean {mean}, sd {spread} ({each})")
    show_table(table, stacked, console)


def show_score_table(table: ScoreTable, console: Console) -> None:
    """Scores, ours beside what was published; differences, where there are some; and the caption below."""
    published = any(row.published for row in table.rows)
    heads = [f"{name} / published" if published else name for name in table.columns]
    shown, stacked = Table("", *heads, "best epoch", "", title=table.title), []
    for row in table.rows:
        cells = [_score(row, column) for column in table.columns]
        told = ", ".join(f"{c} {cell}" for c, cell in zip(table.columns, cells, strict=True) if cell != "-")
        if published:
            theirs = [f"{row.published[c]:g}" if c in row.published else "-" for c in table.columns]
            cells = [f"{cell} / {other}" for cell, other in zip(cells, theirs, strict=True)]
            told += " | published " + (", ".join(f"{c} {v:g}" for c, v in row.published.items()) or "none")
        epochs = ", ".join(map(str, row.best_epochs)) or "-"
        shown.add_row(row.name, *cells, epochs, row.status)
        stacked.append(f"{row.name}: {told} | best epoch {epochs}{f' | {row.status}' if row.status else ''}")
    show_table(shown, stacked, console)
    if any(row.differences for row in table.rows):
        _show_differences(table, console)
    for line in table.caption:
        say(console, line)


def _show_differences(table: ScoreTable, console: Console) -> None:
    shown, stacked = Table("difference", *table.columns, "against"), []
    for row in table.rows:
        if row.differences:
            cells = [_difference(row.differences.get(column)) for column in table.columns]
            shown.add_row(row.name, *cells, row.against)
            told = ", ".join(f"{c} {cell}" for c, cell in zip(table.columns, cells, strict=True))
            stacked.append(f"difference of {row.name} against {row.against}: {told}")
    show_table(shown, stacked, console)


def _score(row: ScoreRow, column: str) -> str:
    mean, spread = row.mean(column), row.spread(column)
    return "-" if mean is None else f"{mean:.4f}" if spread is None else f"{mean:.4f} ± {spread:.4f}"


def _difference(found: Difference | None) -> str:
    if found is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{found.mean:+.4f}"
    return f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]{' *' if found.exceeds_noise else ''}"


def count(number: int, one: str, many: str = "") -> str:
    """`1 epoch`, `3 epochs`, `1,000 batches`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s` or `1 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
