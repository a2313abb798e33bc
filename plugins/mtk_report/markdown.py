"""The report `markdown`: pipe tables as GitHub reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from mtk import ScoreTable, SearchRecord
from mtk_report.content import content
from mtk_report.files import write
from mtk_report.grid import NOTHING, Grid, one_line


class Markdown:
    """Writes table.md: `mean ± sd` over seeds, published figures beside it, differences, then the caption.

    A published figure has a column of its own, with `published` in its heading. Of a search: its parameters and trials.
    """

    def __call__(self, record: ScoreTable | SearchRecord, folder: Path) -> Path:
        """Returns the path of table.md. Raises DataError where it cannot be written."""
        found = content(record)
        blocks = [f"# {escape(found.title)}"]
        for place, (heading, grid) in enumerate(found.grids.items()):
            blocks += [*([f"## {heading}"] if place else []), *_blocks(grid)]
        if found.caption:
            blocks.append("\n".join(f"- {escape(line)}" for line in found.caption))
        return write(folder / "table.md", "\n\n".join(blocks) + "\n")


def escape(text: str) -> str:
    """The text on one line, with nothing in it that Markdown, HTML or a pipe table would take for its own."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"[\\`|\[\]~$]", r"\\\g<0>", text)
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # inside a word `_` is itself
    return re.sub(r"(?<=\S)\*|\*(?=\S)", r"\\*", text)  # between blanks `*` is itself


def _blocks(grid: Grid) -> list[str]:
    heads = [column.heading + (", published" if column.group == "published" else "") for column in grid.columns]
    lines = [_line(map(escape, heads)), _line("---:" if column.numeric else ":---" for column in grid.columns)]
    for line in grid.lines:
        lines.append(_line(text for cell in line for text in (escape(cell.text), *[NOTHING] * (cell.span - 1))))
    return ["\n".join(lines), *([escape(" ".join(grid.notes))] if grid.notes else [])]


def _line(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"
