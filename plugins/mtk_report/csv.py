"""The report `csv`: long tables, for whoever wants to compute with the scores."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mtk import ScoreRow, ScoreTable, SearchRecord, trial_history
from mtk_report.files import write

SCORES = (
    *("row", "column", "run", "seed", "score", "best_epoch", "runs", "mean", "sd", "published", "published_by"),
    *("against", "difference", "difference_low", "difference_high", "difference_pairs", "exceeds_noise"),
    *("status", "seconds"),
)
EPOCHS = ("trial", "state", "epoch", "score", "trained_in", "source")
CURVES = ("row", "run", "seed", "split", "column", "epoch", "score", "best")


class CSV:
    """Writes table.csv, a line for each row, column and seed, and curves.csv, a line for each epoch of each seed.

    Long, since seeds differ in number and a long table is what group-by and plotting libraries take; a wide one is a
    pivot of `row` by `column` away. `run` counts a row's seeds from 1. What belongs to row and column (`runs`, `mean`,
    `sd`, `published`, `difference` ...) stands again on each of their lines. Row and column without a score have one
    line, with `run` and `score` empty, so that status and published figure are not lost. Numbers have all their digits,
    what is unknown is empty. A seed's number is known where a row has as many curves as scores.

    Of a search it writes curves.csv alone, a line for each epoch behind each trial's weights: the trial that it was
    trained in, the one whose weights that took over, and the parameters then. Its trials.csv has a line a trial.
    """

    def __call__(self, record: ScoreTable | SearchRecord, folder: Path) -> Path:
        """Returns the path of table.csv, or a search's curves.csv. Raises DataError where a file cannot be written."""
        if isinstance(record, SearchRecord):
            keys = list(record.space)
            return write(folder / "curves.csv", _text([*EPOCHS, *keys], _epochs(record, keys)))
        write(folder / "curves.csv", _text(CURVES, _curves(record)))
        return write(folder / "table.csv", _text(SCORES, _scores(record)))


def _text(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if value is None else value for value in line] for line in lines)
    return text.getvalue()


def _scores(table: ScoreTable) -> Iterator[Sequence[Any]]:
    for row in table.rows:
        for column in table.columns:
            scores = row.scores.get(column, ())
            about = _about(table, row, column)
            if not scores:
                yield (row.name, column, None, None, None, None, 0, *about)
            for run, score in enumerate(scores, 1):
                seed = row.curves[run - 1].seed if len(row.curves) == len(scores) else None
                best = row.best_epochs[run - 1] if len(row.best_epochs) == len(scores) else None
                yield (row.name, column, run, seed, score, best, len(scores), *about)


def _about(table: ScoreTable, row: ScoreRow, column: str) -> Sequence[Any]:
    """What is one for all seeds: the fields from `mean` on."""
    published = row.published.get(column)
    difference = row.differences.get(column)
    compared: Sequence[Any] = (None, None, None, None, None, None)
    if difference is not None:
        exceeds = {None: None, True: "true", False: "false"}[difference.exceeds_noise]
        compared = (row.against, difference.mean, difference.low, difference.high, difference.pairs, exceeds)
    by = None if published is None else table.published
    return (row.mean(column), row.spread(column), published, by, *compared, row.status, row.seconds)


def _curves(table: ScoreTable) -> Iterator[Sequence[Any]]:
    for row in table.rows:
        for run, curve in enumerate(row.curves, 1):
            for split, scores in (("train", curve.train), ("dev", curve.dev)):
                for column in scores:
                    for epoch, score in enumerate(scores[column], 1):
                        best = None if curve.best_epoch is None else str(epoch == curve.best_epoch).lower()
                        yield (row.name, run, curve.seed, split, column, epoch, score, best)


def _epochs(record: SearchRecord, keys: Sequence[str]) -> Iterator[Sequence[Any]]:
    for trial in record.trials:
        for epoch in trial_history(trial):
            about = (trial.number, trial.state, epoch.epoch, epoch.score, epoch.trial, epoch.source)
            yield (*about, *(epoch.parameters.get(key) for key in keys))
