"""Reports: a table of scores, or a search, as CSV, Markdown, LaTeX, and an HTML page with plots."""

from __future__ import annotations

from mtk import Register, hookimpl


@hookimpl
def register_reports(register: Register) -> None:
    register("csv", "mtk_report.csv:CSV", "table.csv, a line a score, and curves.csv, a line an epoch; full precision")
    register("markdown", "mtk_report.markdown:Markdown", "table.md, a GitHub pipe table", aliases=("md",))
    register("latex", "mtk_report.latex:LaTeX", "table.tex, booktabs tables for \\input", aliases=("tex",))
    register("html", "mtk_report.html:HTML", "report.html, a page with tables and plots, and the plots as SVG and PNG")
