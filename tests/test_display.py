"""What a run shows: at any width nothing is cropped, and singular and plural are told apart."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from mtk.cli.train import _remaining
from mtk.display import Display, count, duration, make_console, say, show_plan, show_scores, show_spread
from mtk.evaluation import Scores
from mtk.gradients import GradientReport
from mtk.run import RunFolder
from mtk.session import Session, start
from mtk.settings import configure
from mtk.training import StepDone

SMALL: dict[str, Any] = {
    "sample": "always", "encoder": "tiny", "max_train_rows": 24, "epochs": 1, "threads": 1, "precision": "fp32",
    "device": "cpu", "patience": 1,
}  # fmt: skip
SCORES = Scores(
    {"sst": {"accuracy": 0.5, "macro_f1": 0.25}, "sts": {"pearson": 0.75}}, {"sst": "accuracy", "sts": "pearson"}
)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Session:
    """A run that trains sst and only evaluates sts."""
    monkeypatch.delenv("MTK_DATA", raising=False)
    monkeypatch.setenv("MTK_CACHE", str(tmp_path / "cache"))
    return start(configure(tasks=["sst", "sts"], settings=["tasks.sts.trained=false"], **SMALL), None)


def screen(width: int, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None, markup=False)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_wide_plan_is_a_table(session: Session) -> None:
    console = screen(140)
    show_plan(session, console)
    printed = shown(console)
    assert "rows/epoch" in printed and "│ sst  │" in printed
    (line,) = (line for line in printed.splitlines() if "│ sts " in line)
    assert "evaluated only" in line
    assert "1 thread |" in printed and "in 1 epoch |" in printed and "after 1 epoch without" in printed


@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_narrow_plan_loses_nothing(session: Session, width: int, terminal: bool) -> None:
    console = screen(width, terminal)
    show_plan(session, console)
    printed = " ".join(shown(console).split())
    assert (
        "sst: head Linear, 24 train rows, 24 an epoch in 3 batches of 8, 0.0% truncated, 120 dev rows, "
        f"{session.parts.model.parameter_counts()[1]['sst']:,} head parameters"
    ) in printed
    assert "sts: head Linear, evaluated only, 120 dev rows, " in printed
    assert "…" not in printed and "rows/epoch" not in printed


def test_scores_at_any_width() -> None:
    for width, lines in ((140, 7), (30, 3)):
        console = screen(width)
        show_scores(SCORES, console)
        printed = shown(console)
        assert len(printed.splitlines()) == lines and "…" not in printed
        for value in ("0.5000", "macro_f1 0.2500", "0.7500", "0.6250"):
            assert value in printed


def test_the_spread_over_many_seeds_at_any_width(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = iter([{"seed": seed, "scores": SCORES.to_dict()} for seed in range(20)])
    monkeypatch.setattr(RunFolder, "facts", property(lambda _: next(facts)))
    console = screen(140)
    show_spread([RunFolder(Path("x"))] * 20, console)
    assert "sst accuracy: mean 0.5000, sd 0.0000 (seed 0 0.5000, " in shown(console)
    assert "seed 19 0.6250" in shown(console)


def test_lines_are_whole_in_a_file_and_wrap_at_words_on_a_terminal() -> None:
    text = "a [bracket] and " + "words " * 20
    file, terminal = screen(40), screen(40, terminal=True)
    say(file, text)
    say(terminal, text)
    assert shown(file) == text + "\n"
    assert all(len(line) <= 40 for line in shown(terminal).splitlines())
    assert shown(terminal).split() == text.split()


def test_a_line_is_put_above_the_live_line(session: Session) -> None:
    console = screen(80, terminal=True)
    display = Display(session, console)
    assert not display.interject("nothing is live")
    report = GradientReport(("sst",), torch.ones(1))
    display.show(StepDone(0, 1, 3, 1, 3, {"sst": 1.5}, 1e-4, 8, report))
    try:
        assert display.interject("interrupted: saving")
    finally:
        display.close()
    printed = shown(console)
    assert "nothing is live" not in printed
    assert "epoch 1/1 step 1/3" in printed.split("interrupted: saving")[1], "the live line stands below"


def test_a_console_falls_silent_when_its_reader_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("mtk.display.silence", lambda: None)
    console = make_console()
    console.file = Closed()
    say(console, "nobody hears this")
    say(console, "nor this")
    assert console.quiet


def test_how_the_remaining_seeds_are_trained() -> None:
    text = _remaining(13, 3, Path("runs/x"))
    assert "3 seeds not begun: the same command with --seed 13 --seeds 3 --out runs/x-more" in text
    assert "for the seed not begun" in _remaining(15, 1, Path("runs/x"))
    assert "this was the last seed" in _remaining(16, 0, Path("runs/x"))
    assert all("no command joins their scores" in _remaining(1, n, Path("x")) for n in range(3))


def test_numbers_in_words() -> None:
    assert [count(n, "epoch") for n in (0, 1, 2)] == ["0 epochs", "1 epoch", "2 epochs"]
    assert count(1000, "batch", "batches") == "1,000 batches"
    assert [duration(s) for s in (42, 200, 3900)] == ["42 s", "3 min 20 s", "1 h 05 min"]


def test_the_plan_shows_rows_that_change_with_the_epoch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MTK_CACHE", str(tmp_path / "cache"))
    small = {**SMALL, "max_train_rows": None, "epochs": 8, "mixer": "annealed:total=400"}
    console = screen(200)
    show_plan(start(configure(tasks=["sst", "cfimdb"], **small), None), console)
    shown = [line for line in console.file.getvalue().splitlines() if line.startswith("rows in epoch")]  # type: ignore[attr-defined]
    assert shown[0] == "rows in epoch 1: sst 343, cfimdb 57" and shown[-1] == "rows in epoch 8: sst 235, cfimdb 165"
    assert [line.split(":")[0][-1] for line in shown] == ["1", "2", "5", "7", "8"]
    console = screen(200)
    show_plan(start(configure(tasks=["sst", "cfimdb"], **{**small, "mixer": "all"}), None), console)
    assert "rows in epoch" not in console.file.getvalue()  # type: ignore[attr-defined]
