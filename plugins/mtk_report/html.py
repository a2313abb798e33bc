"""The report `html`: one page with the tables and the plots."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from mtk import PluginError, ScoreTable, SearchRecord
from mtk_report.content import content
from mtk_report.files import write

if TYPE_CHECKING:
    from mtk_report.drawing import Plot

TEMPLATE = "report.html.j2"


class HTML:
    """Writes report.html, one file that needs no other and asks no network, and plots/*.svg and plots/*.png.

    Of a score table: the scores, the published ones beside them, the differences, bars, train and dev score per epoch.
    Of a search: its parameters and what they matter, its trials, their scores per epoch, and where weights were taken
    over, the lineage and the schedules that came of it.
    """

    def __init__(self) -> None:
        for package in ("matplotlib", "jinja2"):
            if find_spec(package) is None:  # said before the runs that a report is to be written of
                raise _lacking(package)

    def __call__(self, record: ScoreTable | SearchRecord, folder: Path) -> Path:
        """Returns the path of report.html. Raises DataError where a file cannot be written."""
        try:
            from mtk_report.plots import plots
            from mtk_report.searchplots import search_plots
        except ImportError as error:
            raise _lacking("matplotlib") from error
        drawn = plots(record) if isinstance(record, ScoreTable) else search_plots(record)
        page = render(record, drawn)
        for old in (folder / "plots").glob("curves-*"):  # of rows that are gone, or have another name by now
            if old.stem not in {plot.name for plot in drawn}:
                old.unlink()
        for plot in drawn:
            write(folder / "plots" / f"{plot.name}.svg", plot.svg)
            write(folder / "plots" / f"{plot.name}.png", plot.png)
        return write(folder / "report.html", page)


def render(record: ScoreTable | SearchRecord, drawn: list[Plot]) -> str:
    """The page. Everything but the drawings is escaped. Raises PluginError without Jinja."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise _lacking("jinja2") from error
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found = content(record)
    shown = {
        heading: (grid, [(group, len(list(columns))) for group, columns in groupby(grid.columns, lambda c: c.group)])
        for heading, grid in found.grids.items()
    }
    return environment.get_template(TEMPLATE).render(title=found.title, caption=found.caption, grids=shown, plots=drawn)


def _lacking(package: str) -> PluginError:
    return PluginError(f"report 'html' needs {package}: pip install 'multitask-toolkit[report]'")
