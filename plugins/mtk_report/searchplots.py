"""The plots of a search. Imports matplotlib, which the extra `report` brings, and none of its global figures."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from mtk import Dimension, SearchRecord, TrialEpoch, trial_history
from mtk_report.drawing import BLUE, INK, RED, SOFT, Plot, drawn, epochs_below, limits, panels, styled
from mtk_report.grid import one_line
from mtk_report.importance import best_epochs, importance, is_number, varied
from mtk_report.searchgrid import value_text

SHADES = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0.15, 0.95, 32)))  # legible on light and on dark
MOST_NAMES = 40  # beside a lineage; of more trials some are named, and arrows are faint
ENDED, OTHERS = "trained to the end", "not trained to the end"  # the first as SearchRecord.kind has it


def search_plots(record: SearchRecord) -> list[Plot]:
    """Scores by epoch, parameters against scores, and where weights were taken over, lineage and schedules."""
    with styled():
        found = [_curves(record)] if record.trained else []
        if keys := varied(record):
            found.append(_parameters(record, keys))
        if record.has_stages and record.trained:
            found += [_lineage(record), *_schedules(record)]
        return found


# ---------------------------------------------------------------------------------------------- scores


def _curves(record: SearchRecord) -> Plot:
    """A line a trial, and one where weights were given up; the epochs that led to the best score in bold."""
    figure = Figure(figsize=(8.5, 4.2))
    axes = figure.subplots()
    epochs, chain = record.trained, record.chain
    limits(axes, (epoch.score for epoch in epochs))
    epochs_below(axes, max(record.epochs, *(epoch.epoch for epoch in epochs)))
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{one_line(record.select_on)} on dev")
    ended, others = _lines(record)
    width, opacity = (0.8, 0.45) if len(record.trials) > 30 else (1.3, 0.75)
    handles = []
    for lines, colour, label in ((others, SOFT, OTHERS), (ended, BLUE, ENDED)):
        for line in lines:
            _scores(axes, line, colour, width, opacity)
        handles += [Line2D([], [], color=colour, label=label)] * bool(lines)
    if infinite := [epoch.epoch for epoch in epochs if not math.isfinite(epoch.score)]:
        _floor(axes, infinite)
        handles.append(Line2D([], [], color=RED, marker="x", linestyle="", label="not finite"))
    if chain and math.isfinite(chain[-1].score):
        _scores(axes, chain, RED, 2.2, 1.0)
        _star(axes, chain[-1].epoch, chain[-1].score)
        label = f"to the best, trial {chain[-1].trial}, epoch {chain[-1].epoch}"
        handles.append(Line2D([], [], color=RED, marker="*", markersize=10, label=label))
    figure.legend(handles=handles, loc="outside upper right", ncols=4)
    text = "Dev score per epoch of every trial"
    text += "; one that took over weights has the curve of those weights until then." if record.has_stages else "."
    return drawn("curves", "Score per epoch", text, figure)


def _lines(record: SearchRecord) -> tuple[list[list[TrialEpoch]], list[list[TrialEpoch]]]:
    """The histories of trials that were trained to the end, and all others with what was given up."""
    histories = {trial.number: trial_history(trial) for trial in record.trials if trial.scores}
    ended = [t.number for t in record.trials if t.scores and record.kind(t) == ENDED]
    kept = {_key(epoch) for history in histories.values() for epoch in history}
    runs: dict[int, list[TrialEpoch]] = {}
    given_up = []
    for epoch in record.trained:
        run = runs.get(epoch.trial, [])
        goes_on = run and epoch.source is None and epoch.epoch == run[-1].epoch + 1
        runs[epoch.trial] = [*(run if goes_on else []), epoch]
        if run and not goes_on:
            given_up.append(run)
    lost = [run for run in given_up if _key(run[-1]) not in kept]
    return [histories[n] for n in ended], [*(h for n, h in histories.items() if n not in ended), *lost]


def _key(epoch: TrialEpoch) -> tuple[int, int, float]:
    return epoch.epoch, epoch.trial, epoch.score


def _scores(axes: Axes, line: Sequence[TrialEpoch], colour: str, width: float, opacity: float) -> None:
    """With a gap where a score is not finite; the last epoch is a dot."""
    finite = [epoch.score if math.isfinite(epoch.score) else math.nan for epoch in line]
    ends: dict[str, Any] = {"marker": "o", "markersize": 2.5 * width, "markevery": [len(line) - 1]}
    axes.plot([epoch.epoch for epoch in line], finite, color=colour, linewidth=width, alpha=opacity, **ends)


def _star(axes: Axes, x: float, y: float) -> None:
    axes.plot(x, y, "*", color=RED, markersize=13, markeredgecolor=INK, markeredgewidth=0.6, zorder=5)


def _floor(axes: Axes, places: Iterable[float]) -> None:
    """Crosses at the foot of the axes, for what no axis holds."""
    if found := list(places):
        axes.plot(found, [0.02] * len(found), "x", color=RED, transform=axes.get_xaxis_transform(), clip_on=False)


# ---------------------------------------------------------------------------------------------- parameters


def _parameters(record: SearchRecord, keys: Sequence[str]) -> Plot:
    """A panel a key, the most important first: its value at a trial's best epoch against that epoch's score."""
    found, epochs, chain = importance(record), best_epochs(record), record.chain
    keys = found.order(keys)
    titles = [f"{key} · {found.shares[key]:.0%}" if key in found.shares else key for key in keys]
    figure, small = panels(titles, y="best score", legends=0)
    finite = [epoch for epoch in epochs if math.isfinite(epoch.score)]
    whole = {trial.number for trial in record.trials if record.kind(trial) == ENDED}
    for axes, key in zip(small, keys, strict=True):
        axes.title.set_fontsize(9.5)
        limits(axes, (epoch.score for epoch in epochs))
        place = _axis(axes, record.space[key], [epoch.parameters.get(key) for epoch in epochs], "x")
        across = {_key(epoch): place(epoch.parameters.get(key), number) for number, epoch in enumerate(epochs)}
        for colour, ended in ((SOFT, False), (BLUE, True)):
            dots = [(across[_key(epoch)], epoch.score) for epoch in finite if (epoch.trial in whole) == ended]
            axes.plot([x for x, _ in dots], [y for _, y in dots], "o", color=colour, markersize=4, alpha=0.7)
        _floor(axes, (x for (_, _, score), x in across.items() if not math.isfinite(score)))
        if chain and math.isfinite(chain[-1].score):
            _star(axes, across.get(_key(chain[-1]), place(chain[-1].parameters.get(key))), chain[-1].score)
    text = "Best score of every trial against its parameters at that epoch, grey where it was not trained to the end; "
    text += "the star is the best"
    text += ", a cross a score that is not finite" if len(finite) < len(epochs) else ""
    text += "; the percentage is the key's importance." if found.shares else "."
    return drawn("parameters", "Parameters and scores", text, figure)


def _axis(axes: Axes, dimension: Dimension, values: Sequence[Any], which: Literal["x", "y"]) -> Callable[..., float]:
    """Scales an axis for a key's values; gives (value, number) -> place, where numbers part what has one choice."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    if dimension.scale in ("linear", "log") and all(map(is_number, values)):
        (_logarithmic(axes, values, which) if dimension.scale == "log" else axis.set_major_locator(MaxNLocator(4)))
        return lambda value, number=None: value
    texts = {repr(value): value_text(value) for value in [*dimension.values, *values]}
    names, labels = list(texts), [textwrap.shorten(text, 16, placeholder="…") for text in texts.values()]
    axis.set_ticks(range(len(names)), labels, size=10 if len(names) < 8 else 7)
    (axes.set_xlim if which == "x" else axes.set_ylim)(-0.5, len(names) - 0.5)
    if which == "x" and sum(map(len, labels)) > 24:
        axis.set_tick_params(rotation=25)
        for label in axis.get_ticklabels():
            label.set(ha="right", rotation_mode="anchor")
    return lambda value, number=None: names.index(repr(value)) + (0.0 if number is None else 0.3 * _spread(number))


def _logarithmic(axes: Axes, values: Sequence[float], which: Literal["x", "y"]) -> None:
    """Plain numbers at the decades; between them too, where there are few."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis, decades = axes.xaxis if which == "x" else axes.yaxis, math.log10(max(values) / min(values))
    subs = (1.0,) if decades > 2 else (1.0, 3.0) if decades > 1 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=6) if decades > 0.5 else MaxNLocator(3))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axis.set_minor_formatter(NullFormatter())


def _spread(number: int) -> float:
    """From -1 to 1, evenly over any run of numbers (multiples of the golden ratio)."""
    return 2 * ((number * 0.618033988749895) % 1) - 1


# ---------------------------------------------------------------------------------------------- stages


def _lineage(record: SearchRecord) -> Plot:
    """Trials by epochs: a dot an epoch, a line where its weights went on, an arrow where another trial took them."""
    epochs, rows = record.trained, [trial.number for trial in record.trials]
    last, high = max(epoch.epoch for epoch in epochs), max(4, len(rows))
    figure = Figure(figsize=(max(6.0, min(11.0, 2.2 + 0.7 * last)), 1.4 + min(12.0, 0.36 * high)))
    axes = figure.subplots()
    axes.grid(visible=False)
    size = min(9.0, 500 / max(last, high))  # of a dot
    won = {_key(epoch) for epoch in record.chain}
    _edges(axes, epochs, won, size)
    finite = [epoch for epoch in epochs if math.isfinite(epoch.score)]
    scores = [epoch.score for epoch in finite] or [0.0]
    norm = Normalize(min(scores), max(scores) if max(scores) > min(scores) else min(scores) + 1e-3)
    look: dict[str, Any] = {"c": [to_hex(SHADES(norm(e.score))) for e in finite], "s": size**2, "linewidths": 0}
    axes.scatter([e.epoch for e in finite], [e.trial for e in finite], zorder=3, **look)
    lost = [epoch for epoch in epochs if not math.isfinite(epoch.score)]
    axes.plot([e.epoch for e in lost], [e.trial for e in lost], "x", color=RED, markersize=0.8 * size, zorder=3)
    if record.chain:
        _star(axes, record.chain[-1].epoch, record.chain[-1].trial)
    epochs_below(axes, last)
    axes.set_ylim(max(rows) + 0.7, min(rows) - 0.7)
    axes.set_yticks(rows[:: math.ceil(len(rows) / MOST_NAMES)])
    axes.set_xlabel("epoch")
    axes.set_ylabel("trial")
    bar = figure.colorbar(ScalarMappable(norm, SHADES), ax=axes, pad=0.02, aspect=30)
    bar.set_label(f"{one_line(record.select_on)} on dev")
    text = "A dot is an epoch of a trial; a line leads to the next epoch with its weights, an arrow to the trial that "
    text += "took them over. In bold what led to the best score, the star. A line that ends early was given up."
    return drawn("lineage", "Lineage", text, figure)


def _edges(axes: Axes, epochs: Sequence[TrialEpoch], won: set[tuple[int, int, float]], size: float) -> None:
    """From every epoch's weights to the next epoch's; an arrow where the trial changes."""
    known = {(epoch.epoch, epoch.trial) for epoch in epochs}
    width, opacity = (1.0, 0.7) if len({epoch.trial for epoch in epochs}) <= MOST_NAMES else (0.5, 0.2)
    straight: dict[bool, list[list[tuple[int, int]]]] = {False: [], True: []}
    for epoch in epochs:
        start = (epoch.epoch - 1, epoch.trial if epoch.source is None else epoch.source)
        end, best = (epoch.epoch, epoch.trial), _key(epoch) in won
        if start not in known:
            continue
        if epoch.source is None:
            straight[best].append([start, end])
            continue
        arrow = FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=4 + size, shrinkA=size / 2, shrinkB=size / 2
        )
        arrow.set(color=INK, linewidth=width, alpha=opacity, zorder=2.4, in_layout=False)
        if best:
            arrow.set(color=RED, linewidth=2.6, alpha=1.0, zorder=2.6)
        axes.add_patch(arrow)
    axes.add_collection(LineCollection(straight[False], colors=SOFT, linewidths=width, zorder=2))
    axes.add_collection(LineCollection(straight[True], colors=RED, linewidths=2.6, zorder=2.5))


def _schedules(record: SearchRecord) -> Iterator[Plot]:
    """A panel a key that changed: its value at each epoch of every trial's history, the best one's in bold."""
    runs = [trial_history(trial) for trial in record.trials if trial.scores]
    runs += [record.chain] if record.chain else []
    keys = [k for k in record.space if any(len({repr(e.parameters.get(k)) for e in run}) > 1 for run in runs)]
    if not keys:
        return
    figure, small = panels(keys, x="epoch")
    last = max(epoch.epoch for run in runs for epoch in run)
    for axes, key in zip(small, keys, strict=True):
        axes.title.set_fontsize(9.5)
        place = _axis(axes, record.space[key], [epoch.parameters.get(key) for run in runs for epoch in run], "y")
        steps = [[(e.epoch + x, place(e.parameters.get(key))) for e in run for x in (-0.5, 0.5)] for run in runs]
        axes.add_collection(LineCollection(steps, colors=SOFT, linewidths=0.9, alpha=0.6 if len(runs) < 30 else 0.25))
        if record.chain:
            axes.add_collection(LineCollection(steps[-1:], colors=RED, linewidths=2.4, zorder=3))
        axes.autoscale_view()
        axes.set_xlim(0.5, last + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    handles = [Line2D([], [], color=RED, label="to the best score"), Line2D([], [], color=SOFT, label="other trials")]
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    text = "The parameters under which the weights of each trial were trained, epoch by epoch."
    yield drawn("schedules", "Schedules", text, figure)
