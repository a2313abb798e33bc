"""`mtk.train` from Python, and the drive that it shares with the command line: signals, and a display nobody reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import mtk
from mtk import ConfigError
from mtk.api import Interrupted, drive
from mtk.cli.app import run
from mtk.display import Display
from mtk.session import start
from mtk.settings import configure
from mtk.training import Event, Finished, StepDone

SMALL: dict[str, Any] = {
    "sample": "always", "encoder": "tiny", "max_train_rows": 24, "epochs": 1, "threads": 1, "precision": "fp32",
    "device": "cpu",
}  # fmt: skip
OPTIONS = [
    "--task", "sst", "--sample", "--encoder", "tiny", "--max-train-rows", "24", "--epochs", "1", "--threads", "1",
    "--precision", "fp32", "--device", "cpu",
]  # fmt: skip


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MTK_DATA", raising=False)
    monkeypatch.setenv("MTK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def status(run: str) -> str:
    found: str = json.loads(Path(run, "run.json").read_text())["status"]
    return found


def interrupting(*numbers: int) -> Any:
    """A `watch` that sends these signals in the first step."""

    def watch(event: Event) -> None:
        if isinstance(event, StepDone) and event.done == 1:
            for number in numbers:
                signal.raise_signal(number)

    return watch


def test_a_bare_task_is_one_task() -> None:
    folder = mtk.train("sst", out="one", quiet=True, **SMALL)
    assert list(folder.config.tasks) == ["sst"] and status("one") == "finished"


def test_watch_is_called_with_every_event_of_public_kinds() -> None:
    events: list[Any] = []
    mtk.train("sst", out="watched", quiet=True, watch=events.append, **SMALL)
    steps = [event for event in events if isinstance(event, mtk.StepDone)]
    assert [step.step for step in steps] == list(range(1, steps[0].steps + 1)) and steps[0].epoch == 0
    assert isinstance(events[-2], mtk.EpochDone) and events[-2].is_best and isinstance(events[-1], mtk.Finished)
    assert len(events) == len(steps) + 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_saves_says_how_to_resume_and_raises(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match="mtk train --resume cut") as caught:
        mtk.train("sst", out="cut", watch=interrupting(number), **SMALL)
    assert isinstance(caught.value, Interrupted) and caught.value.number == number
    assert signal.getsignal(number) is before
    shown = capsys.readouterr()
    assert "go on exactly here: mtk train --resume cut" in shown.out and "interrupted: saving" in shown.err
    assert status("cut") == "stopped"
    mtk.train("sst", out="whole", quiet=True, **SMALL)
    resumed = mtk.train(resume="cut", quiet=True)
    assert status("cut") == "finished" and resumed.scores == json.loads(Path("whole/run.json").read_text())["scores"]


def test_resume_takes_the_runs_own_settings_only() -> None:
    with pytest.raises(KeyboardInterrupt):
        mtk.train("sst", out="cut", quiet=True, watch=interrupting(signal.SIGINT), **SMALL)
    with pytest.raises(ConfigError, match=r"optim\.lr is 7e-05 in the run, found 0\.5"):
        mtk.train(resume="cut", lr=0.5)
    with pytest.raises(ConfigError, match="give it no out"):
        mtk.train(resume="cut", out="other")
    mtk.train(resume="cut", quiet=True, epochs=1)
    assert status("cut") == "finished"


def test_a_second_interruption_ends_at_once() -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        mtk.train("sst", out="cut", quiet=True, watch=interrupting(signal.SIGINT, signal.SIGINT), **SMALL)
    assert not isinstance(caught.value, Interrupted) and not Path("cut/last").exists()


def test_another_thread_catches_no_signals() -> None:
    ended: list[str] = []
    thread = threading.Thread(target=lambda: ended.append(mtk.train("sst", out="one", quiet=True, **SMALL).path.name))
    thread.start()
    thread.join(60)
    assert ended == ["one"]


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space left on device")])
def test_training_outlives_its_display(
    error: OSError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("mtk.api.silence", lambda: None)
    monkeypatch.setattr(Display, "show", fail)
    begun = start(configure(tasks=["sst"], **SMALL), Path("one"))
    assert drive(begun, Display(begun)) == Finished("epochs")
    assert status("one") == "finished"
    assert ("training goes on" in capsys.readouterr().err) == (not isinstance(error, BrokenPipeError))


def head(*arguments: str, lines: int) -> tuple[int, str]:
    """Exit code and standard error of a command whose standard output is closed after so many lines."""
    command = [sys.executable, "-m", "mtk", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
    assert process.stdout is not None and process.stderr is not None
    for _ in range(lines):
        assert process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    return process.wait(60), said


@pytest.mark.slow
@pytest.mark.parametrize("lines", [0, 1])
def test_a_closed_standard_output_does_not_end_training(lines: int) -> None:
    assert head("train", *OPTIONS, "--out", "one", lines=lines) == (0, "")
    assert status("one") == "finished"


def test_a_closed_standard_output_is_no_mistake() -> None:
    assert head("plugins", "list", lines=1) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_standard_output_is_named() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mtk", "plugins", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (2, "error: standard output: no space left on device\n")


def test_an_interrupted_series_of_seeds_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show = Display.show

    def show_and_interrupt(display: Display, event: Event) -> None:
        show(display, event)
        if isinstance(event, StepDone) and display.session.parts.config.train.seed == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Display, "show", show_and_interrupt)
    assert run(["train", *OPTIONS, "--seed", "3", "--seeds", "4", "--out", "many"]) == 128 + signal.SIGINT
    printed = capsys.readouterr().out
    assert printed.count("shared parameters") == printed.count("BUILT-IN SAMPLE") == 1
    assert "seed 3: all epochs done; best epoch 1, dev aggregate" in printed
    assert "mtk train --resume many/seed-4" in printed
    assert "2 seeds not begun: the same command with --seed 5 --seeds 2 --out many-more" in printed
