"""`mtk sweep` as a person types it, and as it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mtk.device
import mtk.sweep
from mtk import api
from mtk.cli.app import run
from mtk.notices import SAMPLE
from mtk.training import EpochDone

MATRIX = """
title = "Two combiners"
[base]
encoder = { name = "tiny", hidden_size = 8, layers = 1 }
tasks = { sst = {}, sts = {} }
train = { epochs = 1, device = "cpu", precision = "fp32", threads = 1 }
data.max_train_rows = 12
[settings]
combiner = ["sum", "pcgrad"]
"""
SWEEP = ["sweep", "matrix.toml", "--sample", "--out", "out"]


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """A matrix in a folder of its own, no data but the sample, and no time spent on estimates or the hardware."""
    monkeypatch.delenv("MTK_DATA", raising=False)
    monkeypatch.setenv("MTK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(mtk.sweep, "_PROBE_STEPS", 1)
    monkeypatch.setattr(mtk.device, "onednn_or_torch", lambda: "torch")
    monkeypatch.chdir(tmp_path)
    Path("matrix.toml").write_text(MATRIX)


@pytest.fixture
def no_reports(monkeypatch):
    known = mtk.plugins.registered
    monkeypatch.setattr(mtk.plugins, "registered", lambda kind: {} if kind == "report" else known(kind))


def statuses() -> dict[str, str]:
    files = Path("out/runs").glob("*/*/run.json")
    return {str(file.parent.relative_to("out/runs")): json.loads(file.read_text())["status"] for file in files}


def test_the_main_job(capsys):
    assert run(SWEEP) == 0
    printed = capsys.readouterr().out
    for part in (
        "Two combiners: 2 configurations x 1 seed = 2 runs; 0 runs done, 2 to go",
        "estimated: at most",
        "[2/2] combiner=pcgrad, seed 11711",
        "Encoder tiny; at most 1 epoch; seeds 11711.",
        SAMPLE,
    ):
        assert part in printed
    assert statuses() == {"combiner=sum/seed-11711": "finished", "combiner=pcgrad/seed-11711": "finished"}
    for name in ("table.csv", "table.md", "table.tex"):
        assert name in printed and "combiner=pcgrad" in Path("out", name).read_text()
    assert run(["runs", "out/runs/combiner=sum"]) == 0


def test_seeds_are_the_files_or_the_command_lines(capsys, no_reports):
    Path("matrix.toml").write_text(f"seeds = [3, 9]\n{MATRIX}")
    assert run([*SWEEP, "--dry-run"]) == 0 and not Path("out").exists()
    assert "2 configurations x 2 seeds = 4 runs" in capsys.readouterr().out
    assert run([*SWEEP, "--seeds", "1", "--seed", "5"]) == 0
    assert set(statuses()) == {"combiner=sum/seed-5", "combiner=pcgrad/seed-5"}


def test_parts_for_two_machines(capsys, no_reports):
    assert run([*SWEEP, "--shard", "1/2"]) == 0
    assert set(statuses()) == {"combiner=sum/seed-11711"} and "not run" in capsys.readouterr().out
    assert run([*SWEEP, "--shard", "2/2"]) == 0
    assert len(statuses()) == 2 and "not run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sweep", "none.toml", "--out", "out"], "none.toml: cannot be read"),
        (["sweep", "matrix.toml"], "Missing option '--out'"),
        ([*SWEEP, "--data", "x"], "--data"),
        ([*SWEEP, "--shard", "3/2"], "--shard: expected i/n"),
        ([*SWEEP, "--epochs", "0"], "cell 'combiner=sum': configuration: train.epochs"),
        ([*SWEEP, "--set", "combiner=sum"], "--set combiner: the cells of matrix.toml differ in combiner"),
        ([*SWEEP, "--set", "train.seed=3"], "seeds are replicates"),
        ([*SWEEP, "--out", "."], "--out .: expected a new folder"),
        ([*SWEEP, "--out", "matrix.toml"], "--out matrix.toml: expected a new folder"),
    ],
)
def test_mistakes_in_one_line(capsys, arguments, said):
    assert run(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0] and not Path("out").exists()


def test_other_settings_want_another_folder(capsys, no_reports):
    assert run(SWEEP) == 0
    assert run([*SWEEP, "--epochs", "2"]) == 2
    assert "has train.epochs = 1, found 2; a run is made once" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- processes


ALONE = """
import sys, mtk.device, mtk.sweep
from mtk.cli.app import main
mtk.sweep._PROBE_STEPS, mtk.device.onednn_or_torch = 1, lambda: "torch"
main()
"""


def process() -> subprocess.Popen:
    """`mtk sweep` in a process of its own, without reports."""
    env = {**os.environ, "MTK_DISABLE_PLUGINS": "report", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ALONE, *SWEEP]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(pattern: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not list(Path("out").glob(pattern)):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_typed_again(capsys, no_reports, monkeypatch, number):
    Path("matrix.toml").write_text(MATRIX.replace("epochs = 1,", "epochs = 500, patience = 0,"))
    first = process()
    wait_for("runs/*/*/last", first)  # an epoch is saved
    first.send_signal(number)
    printed, errors = first.communicate(timeout=120)
    assert first.returncode == (-number if number == signal.SIGKILL else 130), errors
    assert "Traceback" not in errors
    assert statuses() == {"combiner=sum/seed-11711": "running" if number == signal.SIGKILL else "stopped"}
    if number == signal.SIGINT:
        assert "the sweep goes on where it stopped: mtk sweep matrix.toml --sample --out out" in printed
    seen = []

    def stop_later(event):
        if isinstance(event, EpochDone):
            seen.append(event.epoch + 1)
            if len(seen) == 3:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(mtk.sweep, "drive", lambda one, display: api.drive(one, display, stop_later))
    assert run(SWEEP) == 130
    assert "resuming at epoch" in capsys.readouterr().out and seen[0] > 1
    (file,) = Path("out/runs").glob("*/*/metrics.jsonl")
    epochs = [line["epoch"] for line in map(json.loads, file.read_text().splitlines()) if line["event"] == "epoch"]
    assert epochs == list(range(1, seen[2] + 1))  # none is missing, none is there twice


@pytest.mark.slow
def test_two_processes_in_one_folder_share_the_runs():
    both = [process(), process()]
    results = [one.communicate(timeout=180) for one in both]
    assert [one.returncode for one in both] == [0, 0], results
    assert len(statuses()) == 2 and set(statuses().values()) == {"finished"}
    for file in Path("out/runs").glob("*/*/metrics.jsonl"):
        assert [json.loads(line)["event"] for line in file.read_text().splitlines()].count("epoch") == 1  # one writer
    cells = json.loads(Path("out/sweep.json").read_text())["cells"]
    assert [cell["seeds"] for cell in cells.values()] == [[11711], [11711]]
