r"""The report `latex`: tables for a paper, with booktabs."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from mtk import ScoreTable, SearchRecord
from mtk_report.content import content
from mtk_report.files import write
from mtk_report.grid import Cell, Column, Grid, one_line

STATUS_WIDTH = 48  # characters; a longer one would run off the page
_SPECIAL = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
    **{"[": "{[}", "]": "{]}", "*": "{*}"},  # after \\ they would be its arguments
    **{"±": r"$\pm$", "–": "--", "…": r"\dots{}"},
}


class LaTeX:
    r"""Writes table.tex, for `\input` into a document with `\usepackage{booktabs}`: the scores, then the differences.

    Each is a `table` with its caption, and a label: `tab:scores` and `tab:differences`.
    label: what stands in place of `tab`.
    Of a search: its parameters and its best trials, `tab:parameters` and `tab:trials`.
    """

    def __init__(self, *, label: str = "tab") -> None:
        if not re.fullmatch(r"[A-Za-z0-9:.-]+", label):
            raise ValueError(f"expected a label of letters, digits, ':', '.' and '-', found {label!r}")
        self.label = label

    def __call__(self, record: ScoreTable | SearchRecord, folder: Path) -> Path:
        """Returns the path of table.tex. Raises DataError where it cannot be written."""
        found, parts = content(record, brief=True), ["% \\usepackage{booktabs}"]
        caption = [_sentence(found.title), *map(_sentence, found.caption)]
        for place, (heading, grid) in enumerate(found.grids.items()):
            title = [_sentence(f"{found.title}: {heading.lower()}")] if place else caption
            parts.append(_float(grid, title, f"{self.label}:{heading.lower()}"))
        return write(folder / "table.tex", "\n\n".join(parts) + "\n")


def escape(text: str) -> str:
    """The text on one line, with no character left that LaTeX would act on."""
    return "".join(_SPECIAL.get(char, char) for char in one_line(text))


def _sentence(text: str) -> str:
    text = one_line(text)
    return text if text.endswith((".", "!", "?", ":")) else f"{text}."


def _float(grid: Grid, caption: Sequence[str], label: str) -> str:
    alignment = "".join("r" if column.numeric else "l" for column in grid.columns)
    lines = [
        r"\begin{table}[tbp]",
        r"\centering",
        r"\small",
        r"\setlength{\belowcaptionskip}{6pt}",
        rf"\caption{{{' '.join(escape(line) for line in [*caption, *grid.notes])}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{@{{}}{alignment}@{{}}}}",
        r"\toprule",
        *_groups(grid.columns),
        rf"{' & '.join(escape(column.heading) for column in grid.columns)} \\",
        r"\midrule",
        *(rf"{_line(grid, line)} \\" for line in grid.lines),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def _groups(columns: Sequence[Column]) -> list[str]:
    """The line of group headings and the rules below them; nothing where there are no groups."""
    cells, rules, place = [], [], 1
    for group, members in groupby(columns, key=lambda column: column.group):
        width = len(list(members))
        if group:
            cells.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(group)}}}")
            rules.append(rf"\cmidrule(lr){{{place}-{place + width - 1}}}")
        else:
            cells += [""] * width
        place += width
    return [rf"{' & '.join(cells)} \\", " ".join(rules)] if rules else []


def _line(grid: Grid, line: Sequence[Cell]) -> str:
    texts, place = [], 0
    for cell in line:
        text = escape(cell.text)
        if cell.status:
            text = escape(textwrap.shorten(cell.text, STATUS_WIDTH, placeholder=" …"))
            text = rf"\multicolumn{{{cell.span}}}{{l}}{{\emph{{{text}}}}}" if text else ""
        elif grid.columns[place].numeric:
            text = re.sub(r"(?<![\w-])-(?=\d)", "$-$", text)
        texts.append(text)
        place += cell.span
    return " & ".join(texts)
