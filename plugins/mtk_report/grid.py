"""A score table laid out as text in cells, before anybody's escapes: what Markdown, LaTeX and HTML share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mtk import Difference, ScoreRow, ScoreTable

NOTHING = "–"
MARK = "*"


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, alone or below the heading of a group. numeric: set flush right."""

    heading: str
    group: str = ""
    numeric: bool = True


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell over `span` columns.

    detail: the same in more words. marked: a difference that exceeds the noise. status: words where figures would be.
    """

    text: str
    span: int = 1
    detail: str = ""
    marked: bool = False
    status: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """Lines of cells below columns; the spans of a line add up to the number of columns."""

    columns: Sequence[Column]
    lines: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()


def one_line(text: object) -> str:
    return " ".join(str(text).split())


def score_text(row: ScoreRow, column: str) -> str:
    """`mean ± sd` with 4 digits, without the spread for one seed; `–` for none."""
    mean, spread = row.mean(column), row.spread(column)
    if mean is None:
        return NOTHING
    return f"{mean:.4f}" if spread is None else f"{mean:.4f} ± {spread:.4f}"


def difference_text(difference: Difference) -> str:
    """`+0.0123 [+0.0010, +0.0236] *`, the mark where the interval leaves 0 out."""
    text = f"{difference.mean:+.4f}"
    if difference.low is not None and difference.high is not None:
        text += f" [{difference.low:+.4f}, {difference.high:+.4f}]"
    return f"{text} {MARK}" if difference.exceeds_noise else text


def status_of(row: ScoreRow) -> str:
    """The row's status; for a row with no score at all, always something."""
    status = one_line(row.status)
    return status if status or any(row.scores.values()) else "no scores"


def scores_grid(table: ScoreTable, best_epochs: bool = True, seconds: bool = True) -> Grid:
    """Our scores, the published ones where there are any, and what else is known of a row.

    A row without scores has its status over all score columns.
    """
    published = [column for column in table.columns if any(column in row.published for row in table.rows)]
    statuses = any(row.status and any(row.scores.values()) for row in table.rows)
    best_epochs = best_epochs and any(row.best_epochs for row in table.rows)
    seconds = seconds and any(row.seconds for row in table.rows)

    columns = [Column("configuration", numeric=False)]
    columns += [Column(one_line(column), "ours" if published else "") for column in table.columns]
    columns += [Column(one_line(column), "published") for column in published]
    columns.append(Column("seeds"))
    columns += [Column("status", numeric=False)] * statuses
    columns += [Column("best epoch")] * best_epochs
    columns += [Column("seconds")] * seconds

    lines = []
    for row in table.rows:
        counts = {column: len(row.scores.get(column, ())) for column in table.columns}
        line = [Cell(one_line(row.name)), *_score_cells(row, table.columns, counts)]
        line += [Cell(_figure(row, column)) for column in published]
        line.append(Cell(_range(counts.values())))
        line += [Cell(status_of(row) if any(counts.values()) else "", status=True)] * statuses
        line += [Cell(", ".join(map(str, row.best_epochs)) or NOTHING)] * best_epochs
        line += [Cell(f"{row.seconds:,.0f}" if row.seconds else NOTHING)] * seconds
        lines.append(line)

    notes = []
    if any(row.spread(column) is not None for row in table.rows for column in table.columns):
        notes.append("± is the sample standard deviation over seeds.")
    if published and table.published:
        notes.append(f"Published figures: {one_line(table.published)}.".replace("..", "."))
    return Grid(columns, lines, notes)


def _score_cells(row: ScoreRow, columns: Sequence[str], counts: dict[str, int]) -> list[Cell]:
    most = max(counts.values(), default=0)
    if not most:
        return [Cell(status_of(row), span=len(columns), status=True)] if columns else []
    cells = []
    for column in columns:
        fewer = f" (n = {counts[column]})" if 0 < counts[column] < most else ""
        detail = ", ".join(f"{score:.4f}" for score in row.scores.get(column, ()))
        cells.append(Cell(score_text(row, column) + fewer, detail=f"seeds: {detail}" if detail else ""))
    return cells


def differences_grid(table: ScoreTable) -> Grid | None:
    """The rows that are compared with another; None where none is."""
    rows = [row for row in table.rows if row.differences]
    columns = [column for column in table.columns if any(column in row.differences for row in rows)]
    if not columns:
        return None
    lines = []
    for row in rows:
        line = [Cell(one_line(row.name)), Cell(one_line(row.against) or NOTHING)]
        for column in columns:
            found = row.differences.get(column)
            text = NOTHING if found is None else difference_text(found)
            line.append(Cell(text, marked=bool(found and found.exceeds_noise)))
        line.append(Cell(_range(found.pairs for found in row.differences.values())))
        lines.append(line)
    heads = [Column("configuration", numeric=False), Column("against", numeric=False)]
    heads += [Column(one_line(column)) for column in columns]
    verdicts = [difference.exceeds_noise for row in rows for difference in row.differences.values()]
    notes = ["A difference is the row's score less that of the row it stands against, paired over seeds."]
    if any(verdict is not None for verdict in verdicts):
        notes.append(f"In brackets its 95% confidence interval; {MARK} where that leaves 0 out: more than noise.")
    if None in verdicts:
        notes.append("Without an interval it may be noise: too few seeds to tell.")
    return Grid([*heads, Column("pairs")], lines, notes)


def _figure(row: ScoreRow, column: str) -> str:
    """Somebody else's figure, with as many digits as it was given."""
    figure = row.published.get(column)
    return NOTHING if figure is None else str(figure)


def _range(counts: Iterable[int]) -> str:
    known = sorted({*counts}) or [0]
    return str(known[0]) if len(known) == 1 else f"{known[0]}–{known[-1]}"
