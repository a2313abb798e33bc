"""The plots of a score table. Imports matplotlib, which the extra `report` brings, and none of its global figures."""

from __future__ import annotations

import math
import re
import statistics
import textwrap
from collections.abc import Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mtk import Curve, ScoreRow, ScoreTable
from mtk_report.drawing import BLUE, COMPARED, INK, ORANGE, Plot, drawn, epochs_below, limits, panels, styled
from mtk_report.grid import one_line

Dash = Literal["-", "--"]
SPLITS: tuple[tuple[str, str, Dash], ...] = (("train", ORANGE, "-"), ("dev", BLUE, "--"))


def plots(table: ScoreTable) -> list[Plot]:
    """The bars, the curves of up to six rows in one plot where there are two or more, and each row's curves."""
    with styled():
        found = [_bars(table)] if any(_has_bar(table, row) for row in table.rows) else []
        rows = [row for row in table.rows if _columns(table, row)]
        if 1 < len(rows) <= len(COMPARED):
            found.append(_compared(table, rows))
        return [*found, *(_one(table, rows, place) for place in range(len(rows)))]


# ---------------------------------------------------------------------------------------------- bars


def _bars(table: ScoreTable) -> Plot:
    """A row's mean over seeds in the last column, which is the mean over tasks, beside the published figure."""
    column = table.columns[-1]
    both = any(column in row.published for row in table.rows)
    height = 0.38 if both else 0.6
    figure = Figure(figsize=(8.5, 1.2 + len(table.rows) * (0.62 if both else 0.42)))
    axes = figure.subplots()
    ends = [0.0]
    for place, row in enumerate(table.rows):
        mean, spread, published = row.mean(column), row.spread(column), row.published.get(column)
        y = place - height / 2 if published is not None else float(place)
        if mean is not None and math.isfinite(mean):
            ends += [_bar(axes, y, mean, height, BLUE, f"{mean:.4f}", spread)]
        else:
            text = textwrap.shorten(row.status or "no score", 64, placeholder=" …")
            axes.annotate(text, (0, y), (6, 0), textcoords="offset points", va="center", style="italic")
        if published is not None:
            ends += [_bar(axes, y + height, published, height, ORANGE, str(published))]
    axes.set_yticks(range(len(table.rows)), [textwrap.fill(row.name, 32) for row in table.rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_ylim(len(table.rows) - 0.5, -0.5)
    low, high = min(ends), max(ends)
    room = 0.12 * ((high - low) or 1)  # for the numbers at the bars' ends
    axes.set_xlim(low - 1.5 * room if low < 0 else 0, high + room if high > 0 else room)
    axes.set_xlabel(f"{one_line(column)}: score" + (", mean over seeds ± standard deviation" if _spread(table) else ""))
    if both:
        handles = [Patch(color=BLUE, label="ours")]
        handles.append(Patch(color=ORANGE, label=one_line(table.published) or "published"))
        figure.legend(handles=handles, loc="outside upper right", ncols=2)
    text = f"Score of each configuration in the column {one_line(column)}"
    text += ", ours beside the published one" if both else ""
    text += "; the whisker is ± one standard deviation over seeds." if _spread(table) else "."
    return drawn("scores", "Scores", text, figure)


def _has_bar(table: ScoreTable, row: ScoreRow) -> bool:
    return bool(table.columns) and (bool(row.scores.get(table.columns[-1])) or table.columns[-1] in row.published)


def _bar(
    axes: Axes, y: float, width: float, height: float, colour: str, text: str, spread: float | None = None
) -> float:
    """Draws a bar with its number; returns how far it reaches."""
    axes.barh(y, width, height * 0.92, color=colour)
    sign = -1 if width < 0 else 1
    end = width + sign * (spread or 0.0)
    if spread is not None:
        axes.errorbar(width, y, xerr=spread, color=INK, capsize=3, elinewidth=1.2, capthick=1.2)
    side = "right" if sign < 0 else "left"
    axes.annotate(text, (end, y), (5 * sign, 0), textcoords="offset points", va="center", ha=side, size=9)
    return end


def _spread(table: ScoreTable) -> bool:
    return any(row.spread(table.columns[-1]) is not None for row in table.rows)


# ---------------------------------------------------------------------------------------------- curves


def _one(table: ScoreTable, rows: Sequence[ScoreRow], place: int) -> Plot:
    """One row's train and dev scores by epoch, a small plot a column, all rows on the same axes."""
    row = rows[place]
    columns = _columns(table, row)
    trained = any(curve.train for curve in row.curves)
    figure, small = panels(columns, "epoch", "score")
    for axes, column in zip(small, columns, strict=True):
        _limit(axes, rows, column)
        for split, colour, style in SPLITS:
            _lines(axes, row.curves, column, split, colour, style)
    handles = [Line2D([], [], color=c, linestyle=style, label=split) for split, c, style in SPLITS[not trained :]]
    if any(curve.best_epoch for curve in row.curves):
        handles.append(Line2D([], [], color=BLUE, marker="o", linestyle="", label="best epoch"))
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))
    text = f"{_splits(trained)} score per epoch{_seeds(len(row.curves))}"
    slug = re.sub(r"[^a-z0-9]+", "-", row.name.lower()).strip("-")[:40].strip("-")
    return drawn(f"curves-{place + 1}" + (f"-{slug}" if slug else ""), one_line(row.name), text, figure)


def _compared(table: ScoreTable, rows: Sequence[ScoreRow]) -> Plot:
    """The rows over each other, a colour each; the mean over seeds alone."""
    columns = [column for column in table.columns if any(column in _columns(table, row) for row in rows)]
    trained = any(curve.train for row in rows for curve in row.curves)
    figure, small = panels(columns, "epoch", "score", legends=2)
    for axes, column in zip(small, columns, strict=True):
        _limit(axes, rows, column)
        for row, colour in zip(rows, COMPARED, strict=False):
            for split, _, style in SPLITS:
                _line(axes, _mean(_scores(row.curves, column, split)), colour, style, 1.8)
    handles = [
        Line2D([], [], color=c, label=textwrap.shorten(r.name, 40, placeholder=" …"))
        for r, c in zip(rows, COMPARED, strict=False)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=min(len(handles), max(1, len(small))))
    handles = [Line2D([], [], color=INK, linestyle=style, label=split) for split, _, style in SPLITS[not trained :]]
    figure.legend(handles=handles, loc="outside lower right", ncols=2)
    text = f"{_splits(trained)} score per epoch of {len(rows)} configurations"
    text += "; the mean over seeds, as far as all have epochs." if any(len(r.curves) > 1 for r in rows) else "."
    return drawn("curves", "Score per epoch", text, figure)


def _splits(trained: bool) -> str:
    return "Train (solid) and dev (dashed)" if trained else "Dev"


def _seeds(count: int) -> str:
    return f"; {count} seeds in thin lines, their mean in bold, as far as all have epochs." if count > 1 else "."


def _columns(table: ScoreTable, row: ScoreRow) -> list[str]:
    """The table's columns of which some curve of the row has an epoch."""
    return [c for c in table.columns if any(curve.dev.get(c) or curve.train.get(c) for curve in row.curves)]


def _scores(curves: Sequence[Curve], column: str, split: str) -> list[Sequence[float]]:
    found = [(curve.train if split == "train" else curve.dev).get(column, ()) for curve in curves]
    return [scores for scores in found if scores]


def _mean(runs: Sequence[Sequence[float]]) -> list[float]:
    """Over seeds, of the epochs that all of them have."""
    return [statistics.fmean(scores) for scores in zip(*runs, strict=False)]


def _limit(axes: Axes, rows: Sequence[ScoreRow], column: str) -> None:
    """Axes that hold the curves of all rows, so that the plots of two rows can be compared."""
    runs = [scores for row in rows for split in ("train", "dev") for scores in _scores(row.curves, column, split)]
    limits(axes, (score for scores in runs for score in scores))
    curves = [curve for row in rows for curve in row.curves]
    epochs_below(axes, max(len(scores) for c in curves for split in (c.train, c.dev) for scores in split.values()))


def _lines(axes: Axes, curves: Sequence[Curve], column: str, split: str, colour: str, style: Dash) -> None:
    """Every seed's line, thin where there are several, their mean, and a dot at each seed's best epoch."""
    runs = _scores(curves, column, split)
    for scores in runs:
        _line(axes, scores, colour, style, 1.8 if len(runs) == 1 else 0.8)
    if len(runs) > 1:
        _line(axes, _mean(runs), colour, style, 2.2)
    for curve in curves if split == "dev" else ():
        scores = curve.dev.get(column, ())
        if curve.best_epoch is not None and 0 < curve.best_epoch <= len(scores):
            axes.plot(curve.best_epoch, scores[curve.best_epoch - 1], "o", color=colour, markersize=5)


def _line(axes: Axes, scores: Sequence[float], colour: str, style: Dash, width: float) -> None:
    """One line; a single epoch is a point."""
    point: dict[str, Any] = {"marker": "s" if style == "-" else "o", "markersize": 6} if len(scores) == 1 else {}
    axes.plot(range(1, len(scores) + 1), scores, style, color=colour, linewidth=width, **point)
