"""`mtk tune` as a person types it, and as it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import mtk.device
import mtk.search
import mtk.worker
from mtk.cli.app import run
from tests.test_search import Here, events, leftovers

WHAT = ["--task", "sst", "--sample", "--encoder", "tiny:hidden_size=8,layers=1", "--max-train-rows", "12"]
WHERE = ["--device", "cpu", "--precision", "fp32", "--threads", "1"]
SPACE = ["--space", "optim.lr=loguniform(1e-4,1e-2)"]
TUNE = ["tune", *WHAT, *WHERE, "--epochs", "2"]


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """A folder of its own, no data but the sample, no time spent on the hardware."""
    monkeypatch.delenv("MTK_DATA", raising=False)
    monkeypatch.setenv("MTK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(mtk.device, "onednn_or_torch", lambda: "torch")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(mtk.worker, "Process", Here)
    monkeypatch.setattr(mtk.search, "_LOOK", 0.02)


def test_a_search_its_model_and_its_settings(capsys, here):
    assert run([*TUNE, *SPACE, "--tuner", "random", "--trials", "2", "--out", "out"]) == 0
    said = capsys.readouterr().out
    for part in (
        "tuner random | 2 trials of at most 2 epochs",
        "optim.lr: loguniform(0.0001, 0.01)",
        "2 started, 2 trained to the end, 0 stopped early or left waiting, 0 failed; 4 epochs in all",
        "ended: the tuner has no more trials",
        "its settings: mtk train --config out/best.toml | its model: out/best",
    ):
        assert part in said
    assert run(["evaluate", "out/best"]) == 0
    assert run(["train", "--config", "out/best.toml", "--out", "again"]) == 0
    best = max(event["score"] for event in events(Path("out")) if event["event"] == "epoch")
    assert json.loads(Path("again/run.json").read_text())["scores"]["aggregate"] == best
    assert run(["tune", "--resume", "out"]) == 2
    assert "the search is finished" in capsys.readouterr().err
    assert run([*TUNE, *SPACE, "--out", "out"]) == 2
    assert "go on with that one: mtk tune --resume out" in capsys.readouterr().err


def test_a_dry_run_checks_and_writes_nothing(capsys):
    assert run([*TUNE, *SPACE, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "tuner asha | 20 trials" in said and "nothing was trained or written" in said
    assert run([*TUNE, *SPACE, "--tuner", "grid", "--dry-run"]) == 2
    assert run([*TUNE, *SPACE, "--set", "train.select_on=sst.f9", "--dry-run"]) == 2
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([*SPACE], "mtk tune needs --out DIR"),
        (["--out", "out"], "nothing to search"),
        ([*SPACE, "--out", "out", "--tuner", "none"], "unknown tuner 'none'"),
        ([*SPACE, "--out", "out", "--tuner", "asha:eta=1"], "eta: expected at least 2"),
        ([*SPACE, "--out", "out", "--trials", "0"], "--trials"),
        ([*SPACE, "--out", "out", "--max-hours", "0"], "--max-hours: expected a number above 0"),
        (["--space", "optim.lr=uniform(2,1)", "--out", "out"], "expected low below high"),
        (["--space", "optim.speed=uniform(1,2)", "--out", "out"], "speed"),
        (["--space", "combiner=grid(sum,pcgrad)", "--tuner", "grid", "--trials", "1", "--out", "out"], "--trials 2"),
        ([*SPACE, "--out", "out", "--set", "train.select_on=sst.f9"], "no such metric"),
        ([*SPACE, "--out", "out", "--encoder", "tinny"], "tinny"),
    ],
)
def test_mistakes_in_one_line(capsys, more, said):
    assert run([*TUNE, *more]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0] and not Path("out").exists()


def test_a_resume_takes_nothing_else(capsys):
    given = ["--trials", "3", "--seed", "1", "--task", "sst", "--tuner", "asha", "--final-seeds", "0"]
    assert run(["tune", "--resume", "out", *given]) == 2
    said = capsys.readouterr().err
    assert "leave out --seed, --task, --tuner, --trials, --final-seeds" in said
    assert run(["tune", "--resume", "out"]) == 2
    assert "out: not the folder of a search" in capsys.readouterr().err


def test_the_report_of_a_search(capsys, here):
    assert run([*TUNE, *SPACE, "--tuner", "pbt:quantile=0.5", "--trials", "2", "--out", "out"]) == 0
    said = capsys.readouterr().out
    assert "takes over the weights of trial" in said and "html: out/report.html" in said
    for file in ("report.html", "curves.csv", "lineage.json", "best.toml"):
        Path("out", file).unlink()
    assert run(["tune", "report", "out"]) == 0
    assert "html: out/report.html" in capsys.readouterr().out and Path("out/curves.csv").exists()
    assert run(["tune", "report", "nothing"]) == 2
    assert "nothing: not the folder of a search" in capsys.readouterr().err


def test_a_recipes_owner_stands_for_its_space(capsys):
    assert run([*TUNE, "--space-from", "paper", "--trials", "2", "--dry-run"]) == 0
    assert "optim.lr: " in capsys.readouterr().out
    assert run([*TUNE, "--space-from", "papers", "--trials", "2", "--dry-run"]) == 2
    assert "space 'papers': expected a TOML file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--slots", "999"], "--slots 999: expected at most one for each of this machine's"),
        (["--executor", "moon"], "unknown executor 'moon'"),
        (["--executor", "local", "--ray-address", "local"], "--ray-address A is short for --executor ray:address=A"),
    ],
)
def test_where_it_cannot_be_trained(capsys, more, said):
    assert run([*TUNE, *SPACE, *more, "--out", "out"]) == 2
    assert said in capsys.readouterr().err and not list(Path("out").glob("*"))


# ---------------------------------------------------------------------------------------------- processes


@pytest.mark.slow
def test_trials_side_by_side_find_the_same(capsys):
    """In processes of their own, which on a thread of this one would share a generator."""
    how = [*TUNE, *SPACE, "--epochs", "3", "--tuner", "pbt:quantile=0.5", "--trials", "3"]
    assert run([*how, "--out", "one"]) == 0
    assert run([*how, "--out", "two", "--slots", "2"]) == 0
    for text in (Path("one/trials.csv").read_text(), capsys.readouterr().out):
        assert "failed:" not in text
    assert Path("one/lineage.json").read_text() == Path("two/lineage.json").read_text()
    jobs = [event["event"] for event in events(Path("two"))]
    assert jobs[:2] == ["job", "job"]  # a second trial before the first has an epoch


def process(*arguments: str) -> subprocess.Popen:
    code = "import sys; from mtk.cli.app import main; main()"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(happened: Any, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 180
    while not happened():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)


def trainer(number: int) -> int:
    """The process that trains a trial; 0 where none does."""
    file = Path(f"out/trials/{number:03d}/run.json")
    return json.loads(file.read_text())["process"]["pid"] if file.exists() else 0


def epochs(number: int) -> list[int]:
    if not Path("out/events.jsonl").exists():
        return []
    lines = [json.loads(line) for line in Path("out/events.jsonl").read_bytes().split(b"\n")[:-1]]
    return [line["epoch"] for line in lines if line["event"] == "epoch" and line["trial"] == number]


def gone(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def ended(number: int) -> bool:
    deadline = time.monotonic() + 20
    while not gone(number) and time.monotonic() < deadline:
        time.sleep(0.05)
    return gone(number)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
def test_killed_workers_and_a_killed_search(capsys):
    long = ["--epochs", "5000", "--set", "train.patience=0", "--tuner", "random", "--trials", "2"]
    first = process(*TUNE, *SPACE, *long, "--out", "out")
    wait_for(lambda: epochs(0), first)
    os.kill(trainer(0), signal.SIGKILL)
    killed, before = trainer(0), len(epochs(0))
    wait_for(lambda: len(epochs(0)) > before + 1, first)  # the trial goes on, in a new process
    worker = trainer(0)
    first.kill()
    printed, errors = first.communicate(timeout=120)
    assert "trial 0: restarted: its process was killed (signal 9): out of memory?" in printed and not errors
    assert worker != killed and ended(worker)  # it does not outlive its search
    before = len(epochs(0))
    second = process("tune", "--resume", "out")
    wait_for(lambda: len(epochs(0)) > before + 1, second)
    other = process("tune", "--resume", "out")
    assert "another process is searching in this folder" in other.communicate(timeout=120)[1]
    worker = trainer(0)
    second.send_signal(signal.SIGTERM)
    printed, errors = second.communicate(timeout=120)
    assert second.returncode == 143 and "Traceback" not in errors, errors
    assert "trial 0: goes on" in printed and "go on where it was: mtk tune --resume out" in printed
    assert ended(worker) and leftovers(Path("out")) == []
    assert epochs(0) == list(range(1, len(epochs(0)) + 1))  # none is missing, none is there twice
    assert Path("out/best/best").exists() and "Traceback" not in Path("out/worker.log").read_text()
