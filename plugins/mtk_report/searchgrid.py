"""A search laid out as text in cells: what it came to, its parameters, its trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mtk import SearchRecord, trial_history
from mtk_report.grid import NOTHING, Cell, Column, Grid, one_line
from mtk_report.importance import Importance

if TYPE_CHECKING:
    from mtk import TrialRecord  # whose home imports torch

FOREMOST = 20  # trials of a table for a paper


def value_text(value: Any) -> str:
    """Four digits of a number; `–` where there is none."""
    return NOTHING if value is None else f"{value:.4g}" if isinstance(value, float) else one_line(value)


def score_text(score: float) -> str:
    return f"{score:.4f}" if math.isfinite(score) else "not finite"


def summary(record: SearchRecord) -> list[str]:
    """How it searched, how many trials came to what, and the best."""
    counts = record.counts
    started = counts.pop("started")
    running = counts.pop("running")
    parts = [f"{count} {kind}" for kind, count in {**counts, **({"running": running} if running else {})}.items()]
    epochs = len(record.trained)
    lines = [
        f"Tuner {one_line(record.tuner)}, seed {record.seed}; a score is {one_line(record.select_on)} on dev.",
        f"Trials: {started} started: {', '.join(parts)}; {epochs} {'epoch' if epochs == 1 else 'epochs'} in all.",
    ]
    chain = record.chain
    if record.best is None or not chain:
        return [*lines, "No trial has a score: there is no best."]
    last = chain[-1]
    values = ", ".join(f"{one_line(key)} {value_text(value)}" for key, value in last.parameters.items())
    lines.append(f"Best: trial {record.best.number}, epoch {last.epoch}, {score_text(last.score)}, with {values}.")
    if record.has_stages:
        lines.append(f"Its weights: {lineage_text(record.best, last.epoch)}.")
    return lines


def lineage_text(trial: TrialRecord, until: int | None = None) -> str:
    """`trial 5 to epoch 4, then trial 3`."""
    epochs = trial_history(trial)[:until]
    turns = [f"trial {epoch.source} to epoch {epoch.epoch - 1}, then " for epoch in epochs if epoch.source is not None]
    return "".join(turns) + f"trial {epochs[-1].trial}"


def parameters_grid(record: SearchRecord, found: Importance) -> Grid | None:
    """A line a key: domain, the best value, importance and rank correlation; None for a space without keys."""
    if not record.space:
        return None
    chain = record.chain
    best = chain[-1].parameters if chain else {}
    columns = [Column("parameter", numeric=False), Column("domain", numeric=False), Column("best")]
    columns += [Column("importance"), Column("rank correlation")]
    lines = []
    for key in found.order(list(record.space)):
        share, correlation = found.shares.get(key), found.correlations.get(key)
        line = [Cell(one_line(key)), Cell(one_line(record.space[key].text)), Cell(value_text(best.get(key)))]
        line.append(Cell(NOTHING if share is None else f"{share:.0%}"))
        line.append(Cell(NOTHING if correlation is None else f"{correlation:+.2f}"))
        lines.append(line)
    return Grid(columns, lines, found.trust)


def trials_grid(record: SearchRecord, most: int | None = None) -> Grid | None:
    """A line a trial, the best first; None without trials. most: how many at the most."""
    if not record.trials:
        return None
    shown = sorted(record.trials, key=lambda trial: (not trial.scores, -trial.best, trial.number))[:most]
    best = record.best
    kept = next((t for t in shown if best is not None and (t.number, t.best) == (best.number, best.best)), None)
    problems = any(trial.problem for trial in shown)
    keys = [key for key in record.space if record.space[key].scale != "constant"]
    columns = [Column("trial", numeric=False), Column("state", numeric=False), Column("epochs"), Column("best score")]
    columns += [
        Column("at epoch"),
        Column("last score"),
        *(Column(one_line(key), numeric=record.space[key].scale != "choice") for key in keys),
    ]
    columns += [Column("weights", numeric=False)] * record.has_stages
    columns += [Column("problem", numeric=False)] * problems
    lines = []
    for trial in shown:
        marked = trial is kept
        line = [Cell(str(trial.number)), Cell(trial.state), Cell(str(len(trial.scores)))]
        line += _score_cells(trial, marked)
        line += [Cell(value_text(trial.parameters.get(key))) for key in keys]
        line += [Cell(lineage_text(trial) if trial.scores else NOTHING)] * record.has_stages
        line += [Cell(one_line(trial.problem), status=True)] * problems
        lines.append(line)
    notes = []
    if len(shown) < len(record.trials):
        notes.append(f"The best {len(shown)} of {len(record.trials)} trials.")
    if best is not None and best.scores and kept is None:
        at = best.scores.index(best.best) + 1
        notes.append(f"The best score was trial {best.number}'s at epoch {at}, before it took over other weights.")
    if len(keys) < len(record.space):
        constant = [f"{one_line(k)} = {one_line(d.text)}" for k, d in record.space.items() if d.scale == "constant"]
        notes.append(f"In all trials: {', '.join(constant)}.")
    if record.has_stages:
        notes.append("Scores from before a trial took over weights are those weights'; parameters are the last ones.")
    return Grid(columns, lines, notes)


def _score_cells(trial: TrialRecord, marked: bool) -> Sequence[Cell]:
    if not trial.scores:
        return [Cell(NOTHING)] * 3
    at = trial.scores.index(trial.best) + 1
    detail = ", ".join(map(score_text, trial.scores))
    best = Cell(score_text(trial.best), detail=detail, marked=marked)
    return [best, Cell(str(at)), Cell(score_text(trial.scores[-1]))]
