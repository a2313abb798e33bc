"""Reports on tables made by hand: what is written reads back, nothing in a name breaks a format."""

from __future__ import annotations

import csv
import html
import math
import re
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

from mtk import ConfigError, Curve, DataError, Difference, PluginError, ScoreRow, ScoreTable, build, registered
from mtk_report import html as report_html
from mtk_report.grid import difference_text, differences_grid, score_text, scores_grid
from mtk_report.latex import escape as latex_escape
from mtk_report.markdown import escape as markdown_escape

ABSENT = [package for package in ("matplotlib", "jinja2") if find_spec(package) is None]
draws = pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)} (the extra `report`)")
TEXT = ("csv", "markdown", "latex")
REPORTS = [*TEXT, pytest.param("html", marks=draws)]

ODD = "a_b & 5% | <i>x</i> #1 {~^} $y$ \\z [*]"
COLUMNS = ("sst", "para_x", "mean")


def curve(seed: int, epochs: int, trained: bool = True) -> Curve:
    dev = {column: [0.5 + 0.01 * place * epoch for epoch in range(epochs)] for place, column in enumerate(COLUMNS)}
    train = {column: [score + 0.1 for score in scores] for column, scores in dev.items()}
    return Curve(seed, dev, train if trained else {}, best_epoch=epochs)


SEEDS = ScoreRow(
    "several",
    {"sst": [0.5, 0.52, 0.54], "para_x": [0.8, 0.81, 1 / 3], "mean": [0.65, 0.66, 0.67]},
    published={"sst": 0.523, "mean": 0.7},
    best_epochs=[3, 1, 4],
    curves=[curve(11, 3), curve(12, 1), curve(13, 4)],
    seconds=3600.5,
)
ONE = ScoreRow("one", {"sst": [0.4], "mean": [0.4]}, status="1 of 3 seeds", curves=[curve(11, 1, trained=False)])
NONE = ScoreRow("none", status="not run", published={"mean": 0.71})
SILENT = ScoreRow("silent")
COMPARED = ScoreRow(
    ODD,
    {"sst": [0.51, 0.53], "para_x": [0.8, 0.8], "mean": [-0.1, -0.2]},
    against="several",
    differences={"sst": Difference(0.0123, 0.001, 0.0236, 2), "mean": Difference(-0.75, None, None, 1)},
)
NAN = ScoreRow("nan", {"sst": [math.nan], "para_x": [0.1], "mean": [math.nan]}, curves=[Curve(1, {"sst": [math.nan]})])


def table(*rows: ScoreRow, published: str = "", caption: tuple[str, ...] = ()) -> ScoreTable:
    return ScoreTable("A table", COLUMNS, rows, caption, published)


FULL = ScoreTable(
    f"Title {ODD}", COLUMNS, [SEEDS, ONE, NONE, SILENT, COMPARED], [f"Caption {ODD}", "Line 2"], "Us & Co."
)
TABLES = {
    "full": FULL,
    "one row": table(ONE),
    "none": table(NONE),
    "no scores and no status": table(SILENT),
    "no rows": table(),
    "no columns": ScoreTable("Nothing", (), [ScoreRow("a")]),
    "several": table(SEEDS),
    "not finite": table(NAN, SEEDS),
    "only below zero": table(ScoreRow("below", {"mean": [-0.5, -0.25]}, published={"mean": -0.1})),
    "no interval": table(SEEDS, ScoreRow("b", {"sst": [1.0]}, differences={"sst": Difference(0.1, None, None, 1)})),
    "seven columns": ScoreTable(
        "Wide", "abcdefg", [ScoreRow("x", curves=[Curve(0, {c: [0.1, 0.2] for c in "abcdefg"})])]
    ),
    "other columns' curves": table(ScoreRow("x", curves=[Curve(0, {"elsewhere": [0.1]}), Curve(1, {"sst": []})])),
    "rows of one name": table(SEEDS, SEEDS),
    "odd letters": table(ScoreRow("模型 ±", {"mean": [0.5]}, status="läuft …", curves=[curve(1, 2)])),
}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def cells(text: str, separator: str) -> list[str]:
    """The parts between separators that no backslash escapes."""
    return [part.strip() for part in re.split(rf"(?<!\\){re.escape(separator)}", text)]


# ---------------------------------------------------------------------------------------------- every report


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("case", TABLES)
def test_every_table_is_written_whole_and_the_same_again(name: str, case: str, tmp_path: Path) -> None:
    report: Callable[[ScoreTable, Path], Path] = build("report", name)
    main = report(TABLES[case], tmp_path / "new" / "folder")
    assert main.is_relative_to(tmp_path / "new" / "folder") and main.stat().st_size
    report(TABLES[case], tmp_path / "again")
    assert files_of(tmp_path / "new" / "folder") == files_of(tmp_path / "again")
    assert not [name for name in files_of(tmp_path / "again") if name.endswith(".part")]


@pytest.mark.parametrize("name", REPORTS)
def test_a_new_table_takes_the_old_ones_place(name: str, tmp_path: Path) -> None:
    report = build("report", name)
    old = report(table(ONE), tmp_path / "twice").read_bytes()
    assert report(table(NONE), tmp_path / "twice").read_bytes() != old
    new = report(table(NONE), tmp_path / "once")
    assert (tmp_path / "twice" / new.name).read_bytes() == new.read_bytes()


@pytest.mark.parametrize("name", REPORTS)
def test_what_cannot_be_written_is_one_line_and_the_old_file_stands(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="cannot be written") as caught:
        build("report", name)(FULL, tmp_path / "file")
    assert "\n" not in str(caught.value) and (tmp_path / "file").read_text() == "mine"


def test_what_is_registered() -> None:
    assert list(registered("report")) == ["csv", "markdown", "latex", "html"]
    assert {"md", "tex"} == {alias for r in registered("report").values() for alias in r.aliases}


def test_text_reports_import_nothing_heavy(tmp_path: Path) -> None:
    code = f"""
import sys
from mtk import ScoreRow, ScoreTable, build
for name in {TEXT}:
    build("report", name)(ScoreTable("t", ["a"], [ScoreRow("r", {{"a": [0.5]}})]), __import__("pathlib").Path("."))
print([name for name in ("torch", "matplotlib", "jinja2", "numpy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


# ---------------------------------------------------------------------------------------------- cells


def test_texts_of_scores_and_differences() -> None:
    assert score_text(SEEDS, "sst") == "0.5200 ± 0.0200"
    assert (score_text(ONE, "sst"), score_text(ONE, "para_x")) == ("0.4000", "–")
    assert difference_text(Difference(0.0123, 0.001, 0.0236, 3)) == "+0.0123 [+0.0010, +0.0236] *"
    assert difference_text(Difference(-0.01, -0.03, 0.01, 3)) == "-0.0100 [-0.0300, +0.0100]"
    assert difference_text(Difference(-0.01, None, None, 1)) == "-0.0100"


@pytest.mark.parametrize("case", TABLES)
def test_spans_add_up(case: str) -> None:
    for grid in (scores_grid(TABLES[case]), differences_grid(TABLES[case])):
        for line in grid.lines if grid else ():
            assert sum(cell.span for cell in line) == len(grid.columns)


def test_seeds_that_differ_by_column_are_said() -> None:
    (line,) = scores_grid(table(ScoreRow("a", {"sst": [0.1, 0.2], "mean": [0.3]}))).lines
    assert [cell.text for cell in line] == ["a", "0.1500 ± 0.0707", "–", "0.3000 (n = 1)", "0–2"]


# ---------------------------------------------------------------------------------------------- csv


def read(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_csv_reads_back_to_the_same_numbers(tmp_path: Path) -> None:
    lines = read(build("report", "csv")(FULL, tmp_path))
    for row in FULL.rows:
        for column in COLUMNS:
            found = [line for line in lines if (line["row"], line["column"]) == (row.name, column)]
            assert [float(line["score"]) for line in found if line["score"]] == list(row.scores.get(column, ()))
            assert len(found) == max(1, len(row.scores.get(column, ())))
            assert {line["status"] for line in found} == {row.status}
            for key, value in (("mean", row.mean(column)), ("sd", row.spread(column))):
                assert {line[key] for line in found} == {"" if value is None else repr(value)}
            assert {line["published"] for line in found} == {str(row.published.get(column, ""))}
            difference = row.differences.get(column)
            assert {line["difference"] for line in found} == {"" if difference is None else repr(difference.mean)}
    several = [line for line in lines if line["row"] == "several" and line["column"] == "sst"]
    assert [(line["run"], line["seed"], line["best_epoch"]) for line in several] == [
        *(("1", "11", "3"), ("2", "12", "1"), ("3", "13", "4"))
    ]
    odd = {line["column"]: line["exceeds_noise"] for line in lines if line["row"] == ODD}
    assert odd == {"sst": "true", "para_x": "", "mean": ""}


def test_csv_of_curves(tmp_path: Path) -> None:
    build("report", "csv")(FULL, tmp_path)
    lines = read(tmp_path / "curves.csv")
    for row in FULL.rows:
        for known in row.curves:
            for split, scores in (("train", known.train), ("dev", known.dev)):
                for column in COLUMNS:
                    key = (row.name, str(known.seed), split, column)
                    found = [
                        line for line in lines if tuple(line[k] for k in ("row", "seed", "split", "column")) == key
                    ]
                    assert [float(line["score"]) for line in found] == list(scores.get(column, ()))
                    assert [line["epoch"] for line in found if line["best"] == "true"] in ([], [str(known.best_epoch)])


def test_csv_without_curves_leaves_none_of_an_earlier_table(tmp_path: Path) -> None:
    build("report", "csv")(FULL, tmp_path)
    build("report", "csv")(table(NONE), tmp_path)
    assert read(tmp_path / "curves.csv") == []


# ---------------------------------------------------------------------------------------------- markdown


def test_markdown(tmp_path: Path) -> None:
    file = build("report", "markdown")(FULL, tmp_path)
    assert file.name == "table.md"
    text = file.read_text(encoding="utf-8")
    lines = [cells(line.strip("|"), "|") for line in text.splitlines() if line.startswith("|")]
    assert lines[0][:7] == ["configuration", *COLUMNS, "sst, published", "mean, published", "seeds"]
    assert [len(line) for line in lines] == [len(lines[0])] * 7 + [len(lines[-1])] * 3
    assert lines[2] == [
        *("several", "0.5200 ± 0.0200", "0.6478 ± 0.2724", "0.6600 ± 0.0100", "0.523", "0.7", "3", ""),
        *("3, 1, 4", "3,600"),
    ]
    assert lines[3][7] == "1 of 3 seeds" and lines[4][:6] == ["none", "not run", "–", "–", "–", "0.71"]
    assert lines[5][1] == "no scores"
    assert lines[-1][1:] == ["several", "+0.0123 \\[+0.0010, +0.0236\\] *", "-0.7500", "1–2"]
    assert text.endswith("- Line 2\n") and "Published figures: Us &amp; Co." in text
    assert "<i>" not in text


def test_markdown_without_published_figures_has_no_such_columns(tmp_path: Path) -> None:
    text = build("report", "markdown")(table(ONE), tmp_path).read_text(encoding="utf-8")
    assert "ublished" not in text and "Differences" not in text and "±" not in text


def test_markdown_escapes_what_would_be_markup_and_nothing_else() -> None:
    assert markdown_escape("smart_mix_2 5 * 3") == "smart_mix_2 5 * 3"
    assert markdown_escape("_a_ *b* |c| <d> `e`\nf") == "\\_a\\_ \\*b\\* \\|c\\| &lt;d&gt; \\`e\\` f"


# ---------------------------------------------------------------------------------------------- latex


def width(line: str) -> int:
    """How many columns a line of a tabular fills."""
    spans = [re.match(r"\\multicolumn\{(\d+)\}", cell) for cell in cells(line, "&")]
    return sum(int(span[1]) if span else 1 for span in spans)


@pytest.mark.parametrize("case", [case for case in TABLES if case != "no columns"])
def test_latex_is_balanced(case: str, tmp_path: Path) -> None:
    text = build("report", "latex")(TABLES[case], tmp_path).read_text(encoding="utf-8")
    plain = re.sub(r"\\[\\{}]", "", text)  # escaped
    assert plain.count("{") == plain.count("}")
    depth = 0
    for char in plain:
        depth += (char == "{") - (char == "}")
        assert depth >= 0
    assert re.findall(r"\\begin\{(\w+)\}", text) == [*("table", "tabular")] * text.count("\\begin{table}")
    assert text.count("\\begin") == text.count("\\end")
    for columns, body in re.findall(r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        lines = [line for line in body.splitlines() if line.endswith(r" \\")]
        assert lines and {width(line.removesuffix(r" \\")) for line in lines} == {len(columns)}
        for first, last in re.findall(r"\\cmidrule\(lr\)\{(\d+)-(\d+)\}", body):
            assert 1 < int(first) <= int(last) <= len(columns)


def test_latex(tmp_path: Path) -> None:
    file = build("report", "latex", label="main")(FULL, tmp_path)
    text = file.read_text(encoding="utf-8")
    assert file.name == "table.tex" and "\\label{main:scores}" in text and "\\label{main:differences}" in text
    assert r"\multicolumn{3}{c}{ours} & \multicolumn{2}{c}{published}" in text
    assert r"several & 0.5200 $\pm$ 0.0200 & 0.6478 $\pm$ 0.2724 & 0.6600 $\pm$ 0.0100 & 0.523 & 0.7 & 3 & " in text
    assert r"none & \multicolumn{3}{l}{\emph{not run}} & -- & 0.71 & 0" in text
    assert r"+0.0123 {[}+0.0010, +0.0236{]} {*} & $-$0.7500 & 1--2 \\" in text
    assert re.search(r"^\\caption\{Title .*Caption .* Line 2\. .*\}$", text, re.MULTILINE)
    with pytest.raises(ConfigError, match="expected a label"):
        build("report", "latex", label="a}b")


def test_latex_escapes_every_special_character() -> None:
    assert latex_escape("a_b & 5% #$") == r"a\_b \& 5\% \#\$"
    assert latex_escape("\\ ~^{}<>|[*]") == (
        r"\textbackslash{} \textasciitilde{}\textasciicircum{}\{\}\textless{}\textgreater{}\textbar{}{[}{*}{]}"
    )


# ---------------------------------------------------------------------------------------------- html


class Page(HTMLParser):
    """The texts of a page's table cells, and its tags as they open and close."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.widths: list[int] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = dict(attributes)
        self.ids += [str(given["id"])] if "id" in given else []
        if tag == "tr":
            self.rows.append([])
            self.widths.append(0)
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.widths[-1] += int(given.get("colspan") or 1)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@draws
@pytest.mark.parametrize("case", TABLES)
def test_html_parses_and_asks_for_nothing(case: str, tmp_path: Path) -> None:
    file = build("report", "html")(TABLES[case], tmp_path)
    text = file.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and file.name == "report.html"
    assert not page.tags & {"script", "link", "img", "iframe", "object"}
    assert "http" not in text and "@import" not in text and "//" not in text
    assert not re.findall(r"url\((?!#)", text) and not re.findall(r'href="(?!#)', text)
    assert len(page.ids) == len(set(page.ids))
    references = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    assert references <= set(page.ids)
    assert text.count("<svg") == len(list((tmp_path / "plots").glob("*.svg")))


@draws
def test_html(tmp_path: Path) -> None:
    text = build("report", "html")(FULL, tmp_path).read_text(encoding="utf-8")
    page = Page(text)
    groups, heads, several, one, none, silent, odd, differences, compared = page.rows
    assert groups == ["", "ours", "published", ""] and heads[:4] == ["configuration", *COLUMNS]
    assert several[:6] == ["several", "0.5200 ± 0.0200", "0.6478 ± 0.2724", "0.6600 ± 0.0100", "0.523", "0.7"]
    assert one[7] == "1 of 3 seeds" and none[:2] == ["none", "not run"] and silent[1] == "no scores"
    assert odd[0] == ODD and html.escape(ODD, quote=False) in text and "<i>" not in text
    assert len(set(page.widths[:7])) == 1 and differences[:2] == ["configuration", "against"]
    assert compared[2] == "+0.0123 [+0.0010, +0.0236] *" and 'class="number marked"' in text
    assert "prefers-color-scheme: dark" in text and "var(--c0)" in text


@draws
def test_plots_stand_alone(tmp_path: Path) -> None:
    build("report", "html")(FULL, tmp_path)
    names = {path.stem for path in (tmp_path / "plots").iterdir()}
    assert names == {"scores", "curves", "curves-1-several", "curves-2-one"}
    for name in names:
        assert (tmp_path / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        root = ET.fromstring((tmp_path / "plots" / f"{name}.svg").read_text(encoding="utf-8"))
        texts = {"".join(element.itertext()).strip() for element in root.iter() if element.tag.endswith("}text")}
        bars = {*textwrap.wrap(ODD, 32), "not run", "0.7", "0.6600"}
        assert texts >= ({"epoch", "score", *COLUMNS} if "curves" in name else bars)
        dates = [element for element in root.iter() if element.tag.endswith("}date")]
        assert not dates


@draws
def test_one_epoch_is_a_point_and_unequal_curves_end_where_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from mtk_report import plots

    figures = []
    monkeypatch.setattr(plots, "drawn", lambda name, heading, text, figure: figures.append(figure))
    plots.plots(table(SEEDS, ONE))
    _, compared, several, one = figures
    for axes in one.axes:
        assert [line.get_marker() for line in axes.lines] == ["o", "o"]  # the epoch, and the mark of the best
        assert axes.get_ylim() == several.axes[one.axes.index(axes)].get_ylim()
    lengths = [len(line.get_xdata()) for line in several.axes[0].lines]
    assert sorted(lengths) == sorted([3, 1, 4, 1] * 2 + [1] * 3)  # train and dev: seeds and mean; best epochs
    styles = {line.get_linestyle() for line in compared.axes[0].lines}
    assert styles == {"-", "--"}


@draws
def test_many_rows_are_not_laid_over_each_other(tmp_path: Path) -> None:
    rows = [ScoreRow(f"r{place}", curves=[curve(1, 2)]) for place in range(7)]
    build("report", "html")(table(*rows), tmp_path)
    names = {path.stem for path in (tmp_path / "plots").iterdir()}
    assert names == {f"curves-{place + 1}-r{place}" for place in range(7)}


@draws
def test_a_persons_own_matplotlib_settings_change_nothing(tmp_path: Path) -> None:
    import matplotlib

    report = build("report", "html")
    report(FULL, tmp_path / "usual")
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path"}):
        report(FULL, tmp_path / "own")
        assert matplotlib.rcParams["font.size"] == 30
    assert files_of(tmp_path / "usual") == files_of(tmp_path / "own")


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_is_said_before_anything_is_written(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_html, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(PluginError) as caught:
        build("report", "html")
    assert str(caught.value) == f"report 'html' needs {package}: pip install 'multitask-toolkit[report]'"


@draws
@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_package_that_breaks_on_import_is_said_too(
    package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report = build("report", "html")
    for module in ("drawing", "plots"):
        monkeypatch.delitem(sys.modules, f"mtk_report.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PluginError, match=f"^report 'html' needs {package}: pip install"):
        report(FULL, tmp_path)
    assert not list(tmp_path.iterdir())


def test_plots_of_rows_that_are_gone_are_taken_away(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    curve = Curve(1, {"a": [0.1, 0.2], "mean": [0.1, 0.2]}, {}, 2)
    for name in ("old", "new"):
        row = ScoreRow(name, {"a": [0.2], "mean": [0.2]}, best_epochs=[2], curves=[curve])
        build("report", "html")(ScoreTable("t", ["a", "mean"], [row]), tmp_path)
        (tmp_path / "plots" / "mine.svg").touch()
    names = {file.name for file in (tmp_path / "plots").iterdir()}
    assert any("new" in name for name in names) and not any("old" in name for name in names) and "mine.svg" in names
