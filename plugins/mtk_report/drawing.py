"""How every plot is drawn and kept: style, panels, files. Imports matplotlib, which the extra `report` brings, and none
of its global figures."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mtk_report.grid import one_line

# Okabe and Ito's colours, which colour-blind people tell apart, the palest of them left out.
BLUE, ORANGE, GREEN, PURPLE, RED, INK = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#222222"
COMPARED = (BLUE, RED, GREEN, PURPLE, ORANGE, INK)
FAINT, PAPER, SOFT = "#d4d4d4", "#ffffff", "#8a8a8a"  # soft: legible on light and on dark paper
STYLE: dict[Any, Any] = {
    "figure.constrained_layout.use": True,
    "font.family": ["DejaVu Sans"],  # comes with matplotlib
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "text.parse_math": False,  # a name may hold `$`
    "svg.fonttype": "none",
}
PANELS = 4  # side by side
COLOURS = {f"c{place}": colour for place, colour in enumerate(COMPARED[:-1])}


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot: the stem of its files, a heading, a line that explains it, and the two files' content."""

    name: str
    heading: str
    text: str
    svg: str
    png: bytes

    @property
    def inline(self) -> str:
        """The SVG element alone, for an HTML page: colours are the page's variables, ids carry the plot's name."""
        svg = re.sub(r"<metadata>.*?</metadata>", "", self.svg[self.svg.index("<svg") :], flags=re.DOTALL)
        svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg, count=2).replace("xlink:href", "href")
        svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{self.name}-", svg)
        for name, colour in {**COLOURS, "ink": INK, "faint": FAINT, "paper": PAPER}.items():
            svg = re.sub(rf"([:\s]){colour}\b", rf"\1var(--{name})", svg)
        return svg.replace("<svg", '<svg role="img"', 1)


@contextmanager
def styled() -> Iterator[None]:
    """Our settings alone, whatever a person's own are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def panels(titles: Sequence[str], x: str = "", y: str = "", legends: int = 1) -> tuple[Figure, list[Axes]]:
    """Small plots side by side. x, y: what the outer ones are labelled with. legends: lines of room for them."""
    wide = min(PANELS, len(titles)) if len(titles) != PANELS + 1 else 3
    high = math.ceil(len(titles) / wide)
    figure = Figure(figsize=(max(2.6 * wide, 4.5) + 0.4, 2.4 * high + 0.4 * legends))
    grid = figure.subplots(high, wide, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(titles):
            axes.remove()
            continue
        axes.set_title(one_line(titles[place]))
        if place + wide >= len(titles):
            axes.set_xlabel(x)
        if place % wide == 0:
            axes.set_ylabel(y)
    return figure, list(grid.flat)[: len(titles)]


def epochs_below(axes: Axes, epochs: int) -> None:
    """The axis of 1 to `epochs`, with whole numbers."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    axes.set_xlim(0.5 if epochs == 1 else 1 - 0.03 * epochs, epochs + (0.5 if epochs == 1 else 0.03 * epochs))


def limits(axes: Axes, scores: Iterable[float]) -> None:
    """The axis that holds all scores that are finite."""
    values = [score for score in scores if math.isfinite(score)] or [0.0]
    margin = 0.06 * (max(values) - min(values)) or 0.05
    axes.set_ylim(min(values) - margin, max(values) + margin)


def drawn(name: str, heading: str, text: str, figure: Figure) -> Plot:
    """The plot of a figure."""
    svg, png = io.BytesIO(), io.BytesIO()
    with _quiet(), matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
    wider = svg.getvalue().decode().replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")  # of equal width
    return Plot(name, heading, text, wider, png.getvalue())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning for letters that the font lacks: in the SVG the reader's fonts have them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield
