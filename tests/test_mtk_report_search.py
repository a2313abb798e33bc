"""Reports of searches made by hand: the numbers are right, what matters comes first, and every search can be drawn."""

from __future__ import annotations

import csv
import math
import random
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mtk import DataError, Dimension, PluginError, SearchRecord, Stage, TrialEpoch, TrialRecord, build
from mtk_report import html as report_html
from mtk_report.content import content
from mtk_report.importance import best_epochs, importance, varied
from mtk_report.searchgrid import FOREMOST, lineage_text, parameters_grid, summary, trials_grid
from tests.test_mtk_report import REPORTS, TEXT, Page, cells, draws, files_of, width

ODD = "a_b & 5% | <i>x</i> $y$"
SPACE = {
    "optim.lr": Dimension("loguniform(1e-05, 0.01)", "log"),
    "optim.weight_decay": Dimension("uniform(0, 0.2)"),
    "combiner": Dimension("choice(sum, pcgrad)", "choice", ("sum", "pcgrad")),
    "train.patience": Dimension("3", "constant", (3,)),
}


def parameters(draw: random.Random) -> dict[str, Any]:
    lr, decay = 10 ** draw.uniform(-5, -2), draw.uniform(0, 0.2)
    return {
        "optim.lr": lr,
        "optim.weight_decay": decay,
        "combiner": draw.choice(["sum", "pcgrad"]),
        "train.patience": 3,
    }


def searched(trials: list[TrialRecord], **more: Any) -> SearchRecord:
    scored = [trial for trial in trials if trial.scores and trial.best > -math.inf]
    best = max(scored, key=lambda trial: trial.best, default=None)
    known = {"title": "A search", "tuner": "asha", "select_on": "mean", "seed": 11, "space": SPACE, "epochs": 3}
    return SearchRecord(**{**known, "trials": trials, "best": best, **more})


def plain(count: int, hangs_on: str = "optim.lr", epochs: int = 3) -> SearchRecord:
    """Trials whose score hangs on one key alone, and a little noise."""
    draw, trials = random.Random(7), []
    for number in range(count):
        own = parameters(draw)
        worth = {
            "optim.lr": -abs(math.log10(own["optim.lr"]) + 4),
            "combiner": 2.0 * (own["combiner"] == "pcgrad"),
            "": draw.gauss(0, 1),
        }[hangs_on]
        scores = tuple(0.7 + 0.1 * worth + 0.01 * epoch + draw.gauss(0, 0.001) for epoch in range(epochs))
        trials.append(TrialRecord(number, own, scores, "finished"))
    return searched(trials, epochs=epochs)


def lineages() -> SearchRecord:
    """Three trials: after the second epoch trial 2 takes over the weights of trial 0; trial 1 has a loss of nan."""
    lr = [{**parameters(random.Random(1)), "optim.lr": value} for value in (1e-4, 1e-3, 1e-2, 2e-4)]
    zero = TrialRecord(0, lr[0], (0.4, 0.5, 0.55, 0.58), "finished")
    one = TrialRecord(1, lr[1], (0.3, -math.inf), "failed", "loss of sst is not finite")
    two = TrialRecord(2, lr[3], (0.4, 0.5, 0.6, 0.59), "finished", stages=(Stage(0, 0, lr[0]), Stage(2, 2, lr[3])))
    own = [(0, lr[0], zero.scores), (1, lr[1], one.scores), (2, lr[2], (0.2, 0.25))]
    log = [TrialEpoch(e, n, score, p) for n, p, scores in own for e, score in enumerate(scores, 1)]
    log += [TrialEpoch(3, 2, 0.6, lr[3], source=0), TrialEpoch(4, 2, 0.59, lr[3])]
    return searched([zero, one, two], epochs=4, log=log, caption=[f"mtk tune --title {ODD}"])


FAILED = TrialRecord(0, parameters(random.Random(3)), (), "failed", f"broke: {ODD}")
SINGLE = replace(plain(1).trials[0], state="running")
SEARCHES = {
    "plain": plain(12),
    "few": plain(5),
    "stages": lineages(),
    "stages without a log": replace(lineages(), log=()),
    "the best was given up": replace(
        lineages(), best=TrialRecord(2, lineages().log[4].parameters, (0.2, 0.9), "running")
    ),
    "none": searched([]),
    "one": searched([SINGLE]),
    "one epoch": plain(11, epochs=1),
    "begun": searched([TrialRecord(0, parameters(random.Random(1)), (), "running")]),
    "all failed": searched([FAILED, replace(FAILED, number=1)]),
    "constants only": searched(
        [TrialRecord(n, {"train.patience": 3}, (0.1 * n,) * 3, "finished") for n in range(12)],
        space={"train.patience": SPACE["train.patience"]},
    ),
    "nothing searched": searched([TrialRecord(0, {}, (0.5,), "finished")], space={}),
    "no finite score": searched([replace(t, scores=(-math.inf,) * 2, state="stopped") for t in plain(12).trials]),
    "some not finite": searched(
        [*plain(12).trials, TrialRecord(12, plain(1).trials[0].parameters, (-math.inf, 0.2), "stopped")]
    ),
    "equal scores": searched([replace(trial, scores=(0.5, 0.5)) for trial in plain(12).trials]),
    "odd values": searched(
        [
            TrialRecord(n, {f"x.{ODD}": value, "lists": [n]}, (0.1 * n,), "paused")
            for n, value in enumerate(("a", True, 1, [8, "b"], ODD))
        ],
        title=ODD,
        space={f"x.{ODD}": Dimension("choice(...)", "choice", ("a", True, 1, [8, "b"], ODD)), "lists": Dimension("?")},
    ),
    "200 trials": plain(200, epochs=2),
}


def texts_of(file: Path) -> set[str]:
    root = ET.fromstring(file.read_text(encoding="utf-8"))
    return {"".join(element.itertext()).strip() for element in root.iter() if element.tag.endswith("}text")}


# ---------------------------------------------------------------------------------------------- every report


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("case", SEARCHES)
def test_every_search_is_written_whole(name: str, case: str, tmp_path: Path) -> None:
    report: Callable[[SearchRecord, Path], Path] = build("report", name)
    main = report(SEARCHES[case], tmp_path / "new" / "folder")
    assert main.is_relative_to(tmp_path / "new" / "folder") and main.stat().st_size


@pytest.mark.parametrize("name", REPORTS)
def test_the_same_search_is_written_the_same_again(name: str, tmp_path: Path) -> None:
    for folder in ("one", "other"):
        build("report", name)(SEARCHES["plain"], tmp_path / folder)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "other")


@pytest.mark.parametrize("name", REPORTS)
def test_what_cannot_be_written_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="cannot be written"):
        build("report", name)(SEARCHES["few"], tmp_path / "file")


# ---------------------------------------------------------------------------------------------- what it says


def test_the_summary_counts_every_trial_and_names_the_best() -> None:
    how, trials, best, weights = summary(lineages())
    assert how == "Tuner asha, seed 11; a score is mean on dev."
    assert trials == (
        "Trials: 3 started: 2 trained to the end, 0 stopped early or left waiting, 1 failed; 10 epochs in all."
    )
    assert best.startswith("Best: trial 2, epoch 3, 0.6000, with optim.lr 0.0002, optim.weight_decay 0.")
    assert weights == "Its weights: trial 0 to epoch 2, then trial 2."
    assert ", 1 running; 3 epochs" in summary(SEARCHES["one"])[1]
    for case in ("none", "all failed", "no finite score"):
        assert summary(SEARCHES[case])[-1] == "No trial has a score: there is no best."


def test_the_table_of_trials() -> None:
    grid = trials_grid(lineages())
    assert grid is not None
    assert [column.heading for column in grid.columns] == [
        *("trial", "state", "epochs", "best score", "at epoch", "last score"),
        *("optim.lr", "optim.weight_decay", "combiner", "weights", "problem"),
    ]
    lines = [[cell.text for cell in line] for line in grid.lines]
    assert [line[:7] for line in lines] == [
        ["2", "finished", "4", "0.6000", "3", "0.5900", "0.0002"],
        ["0", "finished", "4", "0.5800", "4", "0.5800", "0.0001"],
        ["1", "failed", "2", "0.3000", "1", "not finite", "0.001"],
    ]
    assert [line[-2:] for line in lines] == [
        ["trial 0 to epoch 2, then trial 2", ""],
        ["trial 0", ""],
        ["trial 1", "loss of sst is not finite"],
    ]
    assert [line[3].marked for line in grid.lines] == [True, False, False]
    assert grid.notes[0] == "In all trials: train.patience = 3."


def test_a_best_that_was_given_up_is_said_and_marks_no_line() -> None:
    grid = trials_grid(SEARCHES["the best was given up"])
    assert grid is not None and not any(cell.marked for line in grid.lines for cell in line)
    assert "The best score was trial 2's at epoch 2, before it took over other weights." in grid.notes


def test_a_paper_gets_the_foremost_trials() -> None:
    record = SEARCHES["200 trials"]
    grid = content(record, brief=True).grids["Trials"]
    scores = sorted((trial.best for trial in record.trials), reverse=True)[:FOREMOST]
    assert [line[3].text for line in grid.lines] == [f"{score:.4f}" for score in scores]
    assert grid.notes[0] == f"The best {FOREMOST} of 200 trials."
    assert len(content(record).grids["Trials"].lines) == 200


@pytest.mark.parametrize("case", SEARCHES)
def test_lines_are_as_long_as_their_heads(case: str) -> None:
    for grid in content(SEARCHES[case]).grids.values():
        for line in grid.lines:
            assert sum(cell.span for cell in line) == len(grid.columns)


def test_lineage_in_words() -> None:
    stages = (Stage(0, 4, {}), Stage(1, 2, {}), Stage(2, 2, {"lr": 1}), Stage(3, 5, {}))
    trial = TrialRecord(5, {}, (0.1, 0.2, 0.3, 0.4), stages=stages)
    assert lineage_text(trial) == "trial 4 to epoch 1, then trial 2 to epoch 3, then trial 5"
    assert lineage_text(trial, 2) == "trial 4 to epoch 1, then trial 2"


# ---------------------------------------------------------------------------------------------- importance


@pytest.mark.parametrize("key", ["optim.lr", "combiner"])
def test_the_key_that_the_score_hangs_on_comes_first(key: str) -> None:
    record = plain(40, hangs_on=key)
    found = importance(record)
    assert found.shares[key] > 0.8 and sum(found.shares.values()) == pytest.approx(1)
    assert set(found.shares) == {"optim.lr", "optim.weight_decay", "combiner"}
    assert found.order(list(SPACE))[0] == key and "much of their order" in found.trust[0]
    grid = parameters_grid(record, found)
    assert grid is not None and [cell.text for cell in grid.lines[0]][:2] == [key, SPACE[key].text]
    assert grid.lines[0][3].text == f"{found.shares[key]:.0%}"


def test_noise_is_called_noise() -> None:
    assert "do not read the shares" in importance(plain(40, hangs_on="")).trust[0]


def test_rank_correlations_are_scipys_and_only_of_numbers() -> None:
    from scipy.stats import spearmanr

    record = plain(12)
    found = importance(record).correlations
    best = best_epochs(record)
    for key in ("optim.lr", "optim.weight_decay"):
        expected = spearmanr([e.parameters[key] for e in best], [e.score for e in best]).statistic
        assert found[key] == pytest.approx(expected)
    assert set(found) == {"optim.lr", "optim.weight_decay"}


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("few", "No importance: 5 trials with a score; with fewer than 10 it is chance."),
        ("constants only", "No importance: no key has two values among the trials with a score."),
        ("all failed", "No importance: no key has two values among the trials with a score."),
        ("stages", "No importance: 3 trials with a score; it takes 10."),
        ("equal scores", "No importance: all trials have the same score."),
    ],
)
def test_where_there_is_no_importance_it_says_why(case: str, said: str) -> None:
    found = importance(SEARCHES[case])
    assert found.shares == {} and found.trust[0] == said


def test_few_trials_have_rank_correlations_and_their_bound() -> None:
    found = importance(SEARCHES["few"])
    assert set(found.correlations) == {"optim.lr", "optim.weight_decay"}
    assert "A rank correlation below 0.98 in size can be chance, with 5 trials." in found.trust


def test_a_score_that_is_not_finite_is_the_worst_and_no_more() -> None:
    record = plain(30)
    worst = min(record.trials, key=lambda trial: trial.best)
    trials = [replace(t, scores=(-math.inf,) * 3) if t is worst else t for t in record.trials]
    assert importance(searched(trials)) == importance(record)


def test_what_a_score_owes_to_others_is_said() -> None:
    trust = importance(SEARCHES["some not finite"]).trust
    assert any("stopped early" in line for line in trust)
    stages = {n: tuple(Stage(after, n, t.parameters) for after in (0, 1)) for n, t in enumerate(plain(12).trials)}
    trials = [replace(trial, stages=stages[trial.number]) for trial in plain(12).trials]
    assert any("taken over" in line for line in importance(searched(trials)).trust)


def test_an_epoch_that_two_trials_go_back_to_counts_once() -> None:
    record = lineages()
    first = replace(record.trials[2], scores=(0.4, 0.7, 0.6, 0.59))
    second = replace(record.trials[0], scores=(0.4, 0.7, 0.55, 0.58))
    assert [(e.trial, e.epoch) for e in best_epochs(searched([first, second]))] == [(0, 2)]
    assert varied(searched([first, second])) == []


# ---------------------------------------------------------------------------------------------- formats


def test_csv_has_a_line_an_epoch_with_the_parameters_of_then(tmp_path: Path) -> None:
    file = build("report", "csv")(lineages(), tmp_path)
    assert [file.name] == [path.name for path in tmp_path.iterdir()] == ["curves.csv"]
    lines = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    assert [(line["trial"], line["epoch"]) for line in lines] == [
        *(("0", "1"), ("0", "2"), ("0", "3"), ("0", "4"), ("1", "1"), ("1", "2")),
        *(("2", "1"), ("2", "2"), ("2", "3"), ("2", "4")),
    ]
    taken = lines[8]
    assert (taken["trained_in"], taken["source"], float(taken["score"])) == ("2", "0", 0.6)
    assert [float(line["optim.lr"]) for line in lines[6:]] == [1e-4, 1e-4, 2e-4, 2e-4]
    assert float(lines[5]["score"]) == -math.inf and lines[5]["state"] == "failed"


def test_markdown_has_parameters_trials_and_caption(tmp_path: Path) -> None:
    text = build("report", "markdown")(lineages(), tmp_path).read_text(encoding="utf-8")
    lines = [cells(line.strip("|"), "|") for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == ["parameter", "domain", "best", "importance", "rank correlation"]
    assert lines[2][:3] == ["optim.lr", "loguniform(1e-05, 0.01)", "0.0002"]
    assert text.index("## Trials") < text.index("| trial |") < text.index("- Trials: 3 started")
    assert "<i>" not in text


@pytest.mark.parametrize("case", SEARCHES)
def test_latex_is_balanced(case: str, tmp_path: Path) -> None:
    text = build("report", "latex")(SEARCHES[case], tmp_path).read_text(encoding="utf-8")
    plain = re.sub(r"\\[\\{}]", "", text)
    assert plain.count("{") == plain.count("}") and text.count("\\begin") == text.count("\\end")
    for columns, body in re.findall(r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        lines = [line for line in body.splitlines() if line.endswith(r" \\")]
        assert {width(line.removesuffix(r" \\")) for line in lines} == {len(columns)}
    assert ("\\label{tab:trials}" in text) == bool(SEARCHES[case].trials)


# ---------------------------------------------------------------------------------------------- the page


STAGES = ("stages", "stages without a log", "the best was given up")
DRAWN: dict[str, tuple[str, ...]] = {  # where it is not curves and parameters
    **dict.fromkeys(("none", "begun", "all failed"), ()),
    **dict.fromkeys(("one", "constants only", "nothing searched"), ("curves",)),
    **dict.fromkeys(STAGES, ("curves", "parameters", "lineage", "schedules")),
}


@draws
@pytest.mark.parametrize("case", SEARCHES)
def test_every_page_parses_asks_for_nothing_and_draws_what_there_is(case: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = build("report", "html")(SEARCHES[case], tmp_path).read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and not page.tags & {"script", "link", "img", "image", "iframe", "object"}
    assert "http" not in text and not re.findall(r"url\((?!#)", text) and not re.findall(r'href="(?!#)', text)
    assert len(page.ids) == len(set(page.ids)) and "<i>" not in text
    plots = {path.name for path in (tmp_path / "plots").glob("*")}
    assert plots == {f"{name}.{kind}" for name in DRAWN.get(case, ("curves", "parameters")) for kind in ("svg", "png")}
    assert text.count("<svg") == len(plots) / 2


@draws
def test_plots_say_what_they_show(tmp_path: Path) -> None:
    build("report", "html")(lineages(), tmp_path / "stages")
    build("report", "html")(SEARCHES["plain"], tmp_path / "plain")
    stages, plain = tmp_path / "stages" / "plots", tmp_path / "plain" / "plots"
    curves = {"epoch", "mean on dev", "trained to the end", "not trained to the end", "not finite"}
    assert texts_of(stages / "curves.svg") >= {*curves, "to the best, trial 2, epoch 3"}
    assert texts_of(stages / "lineage.svg") >= {"epoch", "trial", "0", "1", "2", "mean on dev"}
    assert texts_of(stages / "schedules.svg") >= {"optim.lr", "to the best score", "other trials"}
    assert "combiner" not in texts_of(stages / "schedules.svg")  # the same throughout
    panels = texts_of(plain / "parameters.svg")
    share = importance(SEARCHES["plain"]).shares["optim.lr"]
    assert panels >= {f"optim.lr · {share:.0%}", "sum", "pcgrad", "0.0001", "best score"}
    assert not any("train.patience" in text or "$" in text for text in panels)


def figures_of(record: SearchRecord, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    from mtk_report import searchplots

    figures: dict[str, Any] = {}
    monkeypatch.setattr(searchplots, "drawn", lambda name, heading, text, figure: figures.update({name: figure}))
    searchplots.search_plots(record)
    return figures


@draws
def test_every_epoch_has_a_dot_and_every_take_over_an_arrow(monkeypatch: pytest.MonkeyPatch) -> None:
    axes = figures_of(lineages(), monkeypatch)["lineage"].axes[0]
    (dots,) = [found for found in axes.collections if len(found.get_offsets()) > 1]
    places = {tuple(map(int, place)) for place in dots.get_offsets()}
    assert places == {(e.epoch, e.trial) for e in lineages().log if math.isfinite(e.score)}
    (arrow,) = axes.patches
    assert arrow._posA_posB == [(2, 0), (3, 2)]
    lines = [tuple(map(tuple, path)) for found in axes.collections for path in getattr(found, "get_segments", list)()]
    assert ((1, 2), (2, 2)) in lines and ((2, 2), (3, 2)) not in lines  # given up
    star = next(line for line in axes.lines if line.get_marker() == "*")
    assert (*star.get_xdata(), *star.get_ydata()) == (3, 2)


@draws
def test_curves_show_the_best_and_what_was_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from mtk_report.drawing import BLUE, RED, SOFT

    axes = figures_of(lineages(), monkeypatch)["curves"].axes[0]
    drawn = [(line.get_color(), [float(y) for y in line.get_ydata()]) for line in axes.lines]
    assert (RED, [0.4, 0.5, 0.6]) in drawn
    assert [ys for colour, ys in drawn if colour == BLUE] == [[0.4, 0.5, 0.55, 0.58], [0.4, 0.5, 0.6, 0.59]]
    assert (SOFT, [0.2, 0.25]) in drawn


@draws
def test_axes_follow_the_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    record = SEARCHES["plain"]
    panels = {axes.get_title().split(" · ")[0]: axes for axes in figures_of(record, monkeypatch)["parameters"].axes}
    assert list(panels) == importance(record).order(["optim.lr", "optim.weight_decay", "combiner"])
    assert panels["optim.lr"].get_xscale() == "log" and panels["optim.weight_decay"].get_xscale() == "linear"
    assert [label.get_text() for label in panels["combiner"].get_xticklabels()] == ["sum", "pcgrad"]
    for key, axes in panels.items():
        dots = next(line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata()))
        found = {float(y): float(x) for x, y in zip(dots.get_xdata(), dots.get_ydata(), strict=True)}
        for epoch in best_epochs(record):
            value = epoch.parameters[key]
            place = value if key != "combiner" else ("sum", "pcgrad").index(value)
            assert found[epoch.score] == pytest.approx(place, abs=0.31 if key == "combiner" else 1e-12)


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_is_said_before_anything_is_written(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_html, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(PluginError, match=f"^report 'html' needs {package}: pip install"):
        build("report", "html")


@draws
def test_matplotlib_that_breaks_on_import_is_said_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    report = build("report", "html")
    for module in ("drawing", "plots", "searchplots"):
        monkeypatch.delitem(sys.modules, f"mtk_report.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PluginError, match=r"^report 'html' needs matplotlib: pip install"):
        report(SEARCHES["few"], tmp_path)
    assert not list(tmp_path.iterdir())
