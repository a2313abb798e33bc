"""Many runs as one: cells (configurations by name) times seeds. Each run is made once, and a killed sweep goes on.

DIR/sweep.json           the cells, their configurations and seeds
DIR/runs/CELL/seed-N/    a run folder each
DIR/table.*, ...         what the installed reports make of the scores
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from mtk import session
from mtk.api import Interrupted, drive
from mtk.checkpoint import read_json
from mtk.config import RunConfig, differences, make_config
from mtk.display import (
    Display,
    count,
    duration,
    make_console,
    say,
    show_sample_warning,
    show_score_table,
)
from mtk.errors import CheckpointError, ConfigError
from mtk.reports import problem, write_reports
from mtk.results import Result, result_of
from mtk.run import write_atomically
from mtk.scoretable import ScoreRow, ScoreTable
from mtk.training import StepDone

FORMAT = 1
_PROBE_STEPS, _PROBE_SECONDS = 12, 6.0  # how long a cell is tried to estimate its time
_FORWARD_SHARE = 1 / 3  # of a training step's time, what predicting its rows takes
_LONGEST = 100  # characters of a cell's folder
_UNMADE = {"config.toml", ".config.toml.new", ".run.json.new"}  # what a start leaves that was cut off


@dataclass(frozen=True)
class Cell:
    """A configuration by name; the sweep sets its seed. published: figures to set beside its scores."""

    name: str
    config: RunConfig
    published: Mapping[str, float] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The name as a folder's; a long one is cut, and told apart by its hash."""
        text = re.sub(r"[^a-z0-9._=-]+", "-", self.name.lower()).strip("-.") or "cell"
        return text if len(text) <= _LONGEST else f"{text[:90]}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class PlannedRun:
    """One cell with one seed, and where it is, or will be."""

    cell: Cell
    seed: int
    path: Path


class Sweep:
    """A folder of runs. Cells that it already has may come again, with more seeds; further cells may be added.

    Raises ConfigError where a cell of that name has another configuration, or two cells would share a folder.
    """

    def __init__(self, folder: Path, cells: Sequence[Cell], seeds: Sequence[int]) -> None:
        self.folder = folder
        self.cells = list(cells)
        self.seeds = list(seeds)
        self.failures: dict[tuple[str, int], str] = {}
        self._finished: dict[Path, Result] = {}
        self._file = folder / "sweep.json"
        if not cells or len({cell.name for cell in cells}) < len(cells):
            names = ", ".join(cell.name for cell in cells) or "none"
            raise ConfigError(f"a sweep needs cells of different names, found {names}")
        if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**63 for seed in seeds):
            raise ConfigError(f"a sweep needs different seeds from 0 to 2^63 - 1, found {', '.join(map(str, seeds))}")
        if any("mean" in cell.config.tasks for cell in cells):
            raise ConfigError("a task cannot be named 'mean' in a sweep: that is the mean of all; name it apart")
        if folder.exists() and not self._file.exists() and not _is_free(folder):
            raise ConfigError(f"--out {folder}: expected a new folder, or an earlier sweep's, found other files")
        self._join()

    def _join(self) -> None:
        """Takes this call's cells and seeds in among those that the folder has now."""
        tree: Any = {"format": FORMAT, "cells": {}}
        if self._file.exists():
            tree = read_json(self._file, str(self.folder))
        if not _is_sweep(tree):
            raise ConfigError(f"{self._file}: not a sweep that this mtk can read; choose another --out")
        known = tree["cells"]
        for cell in self.cells:
            config, old = without_seed(cell.config), known.get(cell.name)
            for key, was, now in differences(old["config"], config) if old else ():
                raise ConfigError(
                    f"--out {self.folder}: its cell '{cell.name}' has {key} = {was!r}, found {now!r}; a run is made "
                    "once: choose another --out for other settings"
                )
            before = old["seeds"] if old else []
            seeds = before + [seed for seed in self.seeds if seed not in before]
            known[cell.name] = {"config": config, "seeds": seeds, "published": dict(cell.published)}
        asked = {cell.name: cell for cell in self.cells}
        self.all_cells = [  # also those of earlier calls, in the order in which they came
            asked.get(name) or Cell(name, make_config(one["config"], str(self._file)), one["published"])
            for name, one in known.items()
        ]
        folders: dict[str, str] = {}
        for cell in self.all_cells:
            if (other := folders.setdefault(cell.slug, cell.name)) != cell.name:
                raise ConfigError(
                    f"cells '{other}' and '{cell.name}' would share the folder {cell.slug}: name one apart"
                )
        self._tree: dict[str, Any] = tree

    def runs(self) -> list[PlannedRun]:
        """All that this call asks for: every cell with the first seed, then with the second ..."""
        return [PlannedRun(cell, seed, self.path(cell, seed)) for seed in self.seeds for cell in self.cells]

    # ------------------------------------------------------------------------------------------ doing it

    def conduct(
        self,
        *,
        title: str,
        command: str,
        shard: str | None = None,
        dry_run: bool = False,
        table: Callable[[Sweep], ScoreTable] | None = None,
        console: Console | None = None,
    ) -> int:
        """Plan, estimate, runs, table and reports, with everything said on the way. Returns the exit code.

        shard: `i/n`, the i-th of n parts of the runs. table: makes the table of the finished runs; default
        `self.table`. command: what to type to go on with a sweep that was cut off.
        """
        console = console or make_console()
        part, parts = parse_shard(shard)
        mine = [run for place, run in enumerate(self.runs()) if place % parts == part - 1]
        left = [run for run in mine if self._result(run.cell, run.seed) is None]
        share = f", of which part {part} of {parts}: {count(len(mine), 'run')}" if parts > 1 else ""
        say(
            console,
            f"{title}: {count(len(self.cells), 'configuration')} x {count(len(self.seeds), 'seed')} = "
            f"{count(len(self.runs()), 'run')}{share}; {count(len(mine) - len(left), 'run')} done, {len(left)} to go",
        )
        for cell in self.cells:
            say(console, f"  {cell.name}")
        if left:
            say(console, "estimating the time from a few steps of each configuration ...")
            seconds = self.estimate(left)
            for name, text in {name: text for (name, _), text in self.failures.items()}.items():
                say(console, f"error: {name}: {text}")
            say(console, f"estimated: at most {duration(seconds)} for {count(len(left), 'run')}")
        if dry_run:
            say(console, "dry run: nothing was trained or written")
            return 2 if self.failures else 0
        self._save()
        try:
            self._train(left, console)
        except KeyboardInterrupt as error:
            if isinstance(error, Interrupted):
                self.report(table, title, console)
            say(console, f"the sweep goes on where it stopped: {command}")
            return 128 + (error.number if isinstance(error, Interrupted) else signal.SIGINT)
        self.report(table, title, console)
        if self.failures:
            say(console, f"{count(len(self.failures), 'run')} failed; the same command tries again: {command}")
            return 2
        return 0

    def _train(self, runs: Sequence[PlannedRun], console: Console) -> None:
        shown: set[str] = set()
        for number, run in enumerate(runs, 1):
            what = f"{run.cell.name}, seed {run.seed}"
            lock = FileLock(run.path.parent / f".{run.path.name}.lock")
            run.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as held:
                try:
                    held.enter_context(lock.acquire(timeout=0))
                except Timeout:
                    say(console, f"[{number}/{len(runs)}] {what}: another process trains it")
                    continue
                say(console, f"[{number}/{len(runs)}] {what}")
                try:
                    self._make(run, console, place=1 if run.cell.name in shown else 0)
                    shown.add(run.cell.name)
                    self.failures.pop((run.cell.name, run.seed), None)
                except Exception as error:
                    said = str(problem(error))
                    self.failures[run.cell.name, run.seed] = said
                    say(console, f"error: {what}: {said}")

    def _make(self, run: PlannedRun, console: Console, place: int) -> None:
        """Trains one run to its end, unless somebody else has, since this sweep was planned."""
        if result_of(run.path) is None and (one := self._session(run)) is not None:
            drive(one, Display(one, console, place=place))

    def _session(self, run: PlannedRun) -> session.Session | None:
        """A new run, or one that was cut off; None where there turns out to be nothing left to do."""
        if (run.path / "run.json").exists():
            try:
                return session.resume(run.path)
            except ConfigError:
                if result_of(run.path) is None:
                    raise
                return None  # it was killed just before it could say that it was finished
        if run.path.is_dir() and {file.name for file in run.path.iterdir()} <= _UNMADE:
            shutil.rmtree(run.path)  # cut off before it was a run
        config = run.cell.config.model_copy(deep=True)
        config.train.seed = run.seed
        return session.start(config, run.path, command=f"{run.cell.name}, seed {run.seed}")

    def estimate(self, runs: Sequence[PlannedRun]) -> float:
        """Seconds for the runs: of finished runs of the same cell, else from a few steps. An upper bound, but for
        other work on the machine: nothing is taken off for early stopping or for what interrupted runs have done."""
        seconds: dict[str, float] = {}
        for run in runs:
            if run.cell.name not in seconds:
                done = [result.seconds for result in self.results(run.cell)]
                try:
                    seconds[run.cell.name] = statistics.fmean(done) if done else probe(run.cell.config)
                except Exception as error:
                    self.failures[run.cell.name, run.seed] = str(problem(error))
                    seconds[run.cell.name] = 0.0
        return sum(seconds[run.cell.name] for run in runs)

    def _save(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                self._join()
                write_atomically(self._file, json.dumps(self._tree, indent=2) + "\n")
        except OSError as error:
            raise ConfigError(f"--out {self.folder}: cannot be written ({error.strerror})") from error

    def _locked(self) -> FileLock:
        """Held while files are written that several processes share."""
        return FileLock(self.folder / ".sweep.lock")

    # ------------------------------------------------------------------------------------------ what came of it

    def path(self, cell: Cell, seed: int) -> Path:
        """The run folder of a cell with a seed."""
        return self.folder / "runs" / cell.slug / f"seed-{seed}"

    def _seeds(self, cell: Cell) -> list[int]:
        return list(self._tree["cells"][cell.name]["seeds"])

    def results(self, cell: Cell) -> list[Result]:
        """The finished runs of a cell, by seed, also those of earlier calls."""
        found = (self._result(cell, seed) for seed in self._seeds(cell))
        return [result for result in found if result is not None]

    def _result(self, cell: Cell, seed: int) -> Result | None:
        """None too where the run is damaged, which then counts as failed."""
        path = self.path(cell, seed)
        if path not in self._finished:
            try:
                found = result_of(path)
            except CheckpointError as error:
                self.failures[cell.name, seed] = str(error)
                return None
            if found is None:
                return None
            self._finished[path] = found
        return self._finished[path]

    def row(self, cell: Cell, columns: Sequence[str]) -> ScoreRow:
        """The cell's line of a table. columns: tasks, and `mean` for their mean."""
        results, seeds = self.results(cell), self._seeds(cell)
        values = {
            column: [r.aggregate if column == "mean" else r.scores[column] for r in results]
            for column in columns
            if column == "mean" or all(column in r.scores for r in results)
        }
        failed = [text for (name, _), text in self.failures.items() if name == cell.name]
        status = f"{len(results)} of {count(len(seeds), 'seed')}" if len(results) < len(seeds) else ""
        status = f"failed: {failed[0]}" if failed else status if results else "not run"
        return ScoreRow(
            cell.name,
            values if results else {},
            published=cell.published,
            best_epochs=[r.best_epoch for r in results],
            status=status,
            curves=[r.curve for r in results],
            seconds=sum(r.seconds for r in results),
        )

    def table(self, title: str = "Scores", cells: Sequence[Cell] | None = None) -> ScoreTable:
        """The cells' scores by task and their mean; by default all that the folder has, also of earlier calls."""
        cells = self.all_cells if cells is None else cells
        tasks = dict.fromkeys(name for cell in cells for name in cell.config.tasks)
        columns = [*tasks, "mean"]
        return ScoreTable(title, columns, [self.row(cell, columns) for cell in cells], self.caption(cells))

    def caption(self, cells: Sequence[Cell]) -> list[str]:
        """Metrics, data, encoder, epochs, versions and hardware of the finished runs: what differs is all named."""
        results = [result for cell in cells for result in self.results(cell)]
        if not results:
            return []
        facts = [result.facts for result in results]
        metrics = {f"{name} {metric}" for f in facts for name, metric in f["scores"]["primary"].items()}
        configs = [cell.config for cell in cells if self.results(cell)]
        origins = {entry["origin"] for f in facts for entry in f["data"].values()}
        versions = {f"mtk {f.get('mtk')}, torch {f['versions'].get('torch')}" for f in facts}
        hardware = {f"{f['hardware']['device']}, {f['hardware']['precision']}" for f in facts}
        epochs = sorted({config.train.epochs for config in configs})
        lines = [
            f"Dev scores of the best epoch, which is chosen on the same rows: {', '.join(sorted(metrics))}.",
            f"Encoder {_all(c.encoder.name for c in configs)}; at most {', '.join(map(str, epochs))} "
            f"{'epoch' if epochs == [1] else 'epochs'}; seeds {_all(str(result.seed) for result in results)}.",
            f"{_all(versions)}; {_all(hardware)}; {duration(sum(r.seconds for r in results))} in all.",
        ]
        limits = {c.data.max_train_rows for c in configs} - {None} | {c.train.max_steps for c in configs} - {None}
        if limits:
            lines.append("A reduced run: --max-train-rows or --max-steps was given.")
        if len({frozenset(c.tasks) for c in configs}) > 1:
            lines.append("A row's mean is that of its own tasks: between rows with other tasks it does not compare.")
        if any(entry["sample"] for f in facts for entry in f["data"].values()):
            lines.append("THE BUILT-IN SAMPLE: these scores compare with nothing.")
        else:
            lines.append(f"Data: {_all(Path(origin).name or origin for origin in origins)}.")
        return lines

    def report(self, make: Callable[[Sweep], ScoreTable] | None, title: str, console: Console) -> None:
        """Prints the table of what is finished, and writes it with every installed report."""
        with self._locked():
            self._join()  # another process may have added to it
        table = make(self) if make else self.table(title)
        show_score_table(table, console)
        results = [r for cell in self.all_cells for r in self.results(cell)]
        if any(entry["sample"] for r in results for entry in r.facts["data"].values()):
            show_sample_warning(console)
        write_reports(table, self.folder, console, self._locked)


def _is_free(folder: Path) -> bool:
    """Whether a sweep may begin there; the first files of one that was killed are no hindrance."""
    return folder.is_dir() and all(file.name.startswith(".sweep.") for file in folder.iterdir())


def _is_sweep(tree: Any) -> bool:
    """Whether sweep.json holds what this version writes."""
    if not isinstance(tree, dict) or tree.get("format") != FORMAT or not isinstance(tree.get("cells"), dict):
        return False
    keys = {"config", "seeds", "published"}
    return all(isinstance(cell, dict) and keys <= cell.keys() for cell in tree["cells"].values())


def probe(config: RunConfig) -> float:
    """Seconds that a run would take, from its first few steps: nothing is written, and what they did is thrown away."""
    training = session.start(config, None).training
    steps: list[float] = []
    rows = 0
    events = training.run()
    start = last = time.perf_counter()
    with contextlib.closing(events):  # type: ignore[type-var]
        for event in events:
            now = time.perf_counter()
            if not isinstance(event, StepDone):
                break
            steps.append(now - last)
            rows, last = rows + event.rows, now
            if len(steps) >= _PROBE_STEPS or now - start > _PROBE_SECONDS:
                break
    step = statistics.fmean(steps[2:] or steps or [0.0])
    per_row = sum(steps) / max(1, rows)
    parts = training.parts
    scored = sum(map(len, parts.dev.values())) + sum(
        min(len(r), config.train.score_train) for r in parts.train.values()
    )
    return step * training.total + config.train.epochs * scored * per_row * _FORWARD_SHARE


def parse_shard(text: str | None) -> tuple[int, int]:
    """`2/3` -> (2, 3). Raises ConfigError."""
    if text is None:
        return 1, 1
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal()) or not 1 <= int(first) <= int(second):
        raise ConfigError(f"--shard: expected i/n, such as 1/3, the first of three parts, found '{text}'")
    return int(first), int(second)


def without_seed(config: RunConfig) -> dict[str, Any]:
    """What makes a cell: its configuration's tree, whatever the seed."""
    tree = config.to_dict()
    del tree["train"]["seed"]
    return tree


def _all(values: Iterator[str] | Sequence[str] | set[str] | Any) -> str:
    return ", ".join(sorted(set(values)))
