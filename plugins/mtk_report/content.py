"""What every report says, whatever its format: of a score table or of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mtk import ScoreTable, SearchRecord
from mtk_report.grid import Grid, differences_grid, one_line, scores_grid
from mtk_report.importance import importance
from mtk_report.searchgrid import FOREMOST, parameters_grid, summary, trials_grid


@dataclass(frozen=True, slots=True)
class Content:
    """A title, lines of caption, and grids by heading."""

    title: str
    caption: Sequence[str]
    grids: Mapping[str, Grid]


def content(record: ScoreTable | SearchRecord, brief: bool = False) -> Content:
    """brief: what fits a page of a paper."""
    if isinstance(record, ScoreTable):
        caption = list(record.caption)
        grids = {
            "Scores": scores_grid(record, best_epochs=not brief, seconds=not brief),
            "Differences": differences_grid(record),
        }
    else:
        caption = [*summary(record), *record.caption]
        grids = {
            "Parameters": parameters_grid(record, importance(record)),
            "Trials": trials_grid(record, FOREMOST if brief else None),
        }
    known = {heading: grid for heading, grid in grids.items() if grid is not None}
    return Content(one_line(record.title), [one_line(line) for line in caption], known)
