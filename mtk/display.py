"""What a training run shows: the plan before it, a live line or plain lines during it, the scores after it."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from mtk.evaluation import Scores
from mtk.run import RunFolder
from mtk.session import Session
from mtk.training import EpochDone, Event, Finished, StepDone

PLAIN_EVERY = 20.0  # seconds between progress lines where there is no terminal
RECENT = 50  # steps that the shown losses and rates are means of
SAMPLE_WARNING = (
    "BUILT-IN SAMPLE DATA: a few hundred made-up rows a task. Scores on it compare with nothing: no paper, no other "
    "data set, no other tool. For real data: --data DIR, or mtk data fetch."
)


def make_console() -> Console:
    """Standard output; as wide as it needs to be where it is no terminal."""
    console = Console(highlight=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, emoji=False, width=140)


class Display:
    """Shows a session's plan at once, and every event that `show` is given."""

    def __init__(self, session: Session, console: Console | None = None) -> None:
        self.session = session
        self.console = console or make_console()
        self._live: Live | None = None
        self._recent: deque[tuple[float, StepDone]] = deque(maxlen=RECENT)
        self._said = time.monotonic()
        self._estimated = False
        self._epoch_seconds = 0.0
        show_plan(session, self.console)

    def show(self, event: Event) -> None:
        if isinstance(event, StepDone):
            self._step(event)
        elif isinstance(event, EpochDone):
            self._close()
            self._epoch_seconds = event.seconds
            self.console.print(epoch_line(event, self.session.parts.config.train.epochs), soft_wrap=True)
            self._recent.clear()
            self._said = time.monotonic()
        elif isinstance(event, Finished):
            self._close()
            assert self.session.folder is not None
            show_end(event, self.session.folder, self.console)

    def close(self) -> None:
        """Ends the live line, whatever happened."""
        self._close()

    def _close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _step(self, event: StepDone) -> None:
        self._recent.append((time.monotonic(), event))
        if not self._estimated and len(self._recent) >= 20:
            self._estimated = True
            left = duration(self._left(event))
            self.console.print(f"estimated: at most {left} for {event.total - event.done} steps, evaluation apart")
        if self.console.is_terminal:
            if self._live is None:
                self._live = Live(console=self.console, refresh_per_second=4, transient=True)
                self._live.start()
            self._live.update(self._line(event))
        elif time.monotonic() - self._said >= PLAIN_EVERY:
            self._said = time.monotonic()
            self.console.print(self._line(event), soft_wrap=True)

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
    for name, task in parts.tasks.items():
        head = type(parts.model.head(name)).__name__
        train = parts.train.get(name)
        cells = ["-", "-", "-", "-"]
        if train is not None:
            batches = -(-rows_of[name] // sizes[name])
            share = f"{train.truncated / len(train):.1%}"
            cells = [f"{len(train):,}", f"{rows_of[name]:,}", f"{batches:,} of {sizes[name]}", share]
        table.add_row(name, head, *cells, f"{len(parts.dev[name]):,}", f"{own[name]:,}")
        if task.bad:
            console.print(f"note: task '{name}': {len(task.bad)} bad rows left out: {task.bad[0]}", soft_wrap=True)
    console.print(table)
    config, hardware = parts.config, parts.hardware
    console.print(
        f"encoder {config.encoder.name}: {shared:,} shared parameters | combiner {config.combiner.name} | scheduler "
        f"{config.scheduler.name} | mixer {config.mixer.name} | step {config.train.step}",
        soft_wrap=True,
    )
    console.print(
        f"{hardware.device}, {hardware.precision}, {hardware.threads} threads | at most {session.training.total:,} "
        f"steps in {config.train.epochs} epochs | lr {config.optim.lr:g} | seed {config.train.seed} | stops after "
        f"{config.train.patience or 'no number of'} epochs without a better {config.train.select_on}",
        soft_wrap=True,
    )
    for name, task in parts.tasks.items():
        console.print(f"data of {name}: {task.source.origin}", soft_wrap=True)
    if session.fresh_heads:
        console.print(f"heads that start fresh: {', '.join(session.fresh_heads)}")
    if any(task.source.sample for task in parts.tasks.values()):
        show_sample_warning(console)
    if session.folder is not None:
        at = session.training.position
        if at.done:
            console.print(f"resuming at epoch {at.epoch + 1}, after step {at.done:,}")
        console.print(f"run folder: {session.folder.path}", soft_wrap=True)


def show_sample_warning(console: Console) -> None:
    console.print(Panel(SAMPLE_WARNING, style="bold yellow", expand=False))


def epoch_line(event: EpochDone, epochs: int) -> str:
    losses = " ".join(f"{name} {value:.3f}" for name, value in event.losses.items())
    scores = " ".join(f"{name} {event.scores.tasks[name][m]:.4f}" for name, m in event.scores.primary.items())
    best = " [best so far]" if event.is_best else ""
    return (
        f"epoch {event.epoch + 1}/{epochs} done in {duration(event.seconds)} | train loss {losses} | dev {scores} | "
        f"aggregate {event.scores.aggregate:.4f}{best}"
    ).replace("[best so far]", "\\[best so far]")


def show_end(event: Finished, folder: RunFolder, console: Console) -> None:
    """Why it ended, the best epoch's dev scores, and what to type next."""
    facts = folder.facts
    if event.reason == "stopped":
        console.print(f"stopped and saved; go on exactly here: mtk train --resume {folder.path}", soft_wrap=True)
        return
    why = {"epochs": "all epochs done", "patience": "no gain: stopped early", "max_steps": "--max-steps reached"}
    console.print(f"{why[event.reason]}; best epoch {facts['best_epoch']}, its dev scores:")
    console.print(score_table(facts["scores"]))
    if any(entry["sample"] for entry in facts["data"].values()):
        show_sample_warning(console)
    console.print(f"run folder: {folder.path}", soft_wrap=True)
    console.print(f"use it: mtk evaluate {folder.path} | mtk predict {folder.path} --text '...'", soft_wrap=True)


def score_table(scores: dict[str, object] | Scores) -> Table:
    """Every metric of every task; the primary one first, and the aggregate last."""
    tree = scores.to_dict() if isinstance(scores, Scores) else scores
    table = Table("task", "metric", "dev", "others")
    tasks, primary = tree["tasks"], tree["primary"]
    assert isinstance(tasks, dict) and isinstance(primary, dict)
    for name, metrics in tasks.items():
        main = primary[name]
        others = ", ".join(f"{metric} {value:.4f}" for metric, value in metrics.items() if metric != main)
        table.add_row(name, main, f"{metrics[main]:.4f}", others)
    table.add_row("aggregate", "mean", f"{tree['aggregate']:.4f}", "")
    return table


def show_spread(folders: Sequence[RunFolder], console: Console) -> None:
    """Mean and standard deviation over the seeds of one configuration."""
    facts = [folder.facts for folder in folders]
    table = Table("score", *[f"seed {f['seed']}" for f in facts], "mean", "sd")
    names = list(facts[0]["scores"]["primary"].items())
    rows = [(f"{n} {m}", [f["scores"]["tasks"][n][m] for f in facts]) for n, m in names]
    rows.append(("aggregate", [f["scores"]["aggregate"] for f in facts]))
    for name, values in rows:
        spread = f"{statistics.stdev(values):.4f}" if len(values) > 1 else "-"
        table.add_row(name, *[f"{value:.4f}" for value in values], f"{statistics.fmean(values):.4f}", spread)
    console.print(table)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s` or `1 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
