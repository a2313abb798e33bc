"""`mtk train` as a person types it: what it prints, what it writes, and one clear line for every mistake."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from mtk import notices
from mtk.cli.app import run

SMALL = [
    "--encoder", "tiny", "--max-train-rows", "48", "--epochs", "1", "--threads", "1", "--precision", "fp32",
    "--device", "cpu",
]  # fmt: skip
TRAIN = ["train", "--task", "sst", "--task", "sts", "--sample", *SMALL]


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No data but the sample, and a working directory of its own."""
    monkeypatch.delenv("MTK_DATA", raising=False)
    monkeypatch.setenv("MTK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def fails(capsys, *arguments: str) -> str:
    """The one line on standard error of a command that must fail with exit code 2."""
    code = run(list(arguments))
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2, lines
    assert len(lines) == 1, lines
    assert "Traceback" not in lines[0]
    return lines[0]


# ---------------------------------------------------------------------------------------------- the main job


def test_the_main_job(capsys):
    assert run([*TRAIN, "--combiner", "pcgrad", "--epochs", "2", "--out", "demo"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(notices.SAMPLE) == 2  # before and after: nobody can miss it
    for part in ("rows/epoch", "truncated", "shared parameters", "epoch 2/2 done", "aggregate", "run folder: demo"):
        assert part in printed
    facts = json.loads(Path("demo/run.json").read_text())
    assert facts["status"] == "finished" and facts["data"]["sst"]["sample"] is True
    assert set(facts["data"]["sst"]["files"]) >= {"train", "dev"}
    assert all(len(file["sha256"]) == 64 for file in facts["data"]["sst"]["files"].values())
    lines = [json.loads(line) for line in Path("demo/metrics.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines].count("epoch") == 2
    assert all(line["conflicts"] in (0, 1) for line in lines if line["event"] == "step")
    for name in ("best", "last"):
        files = {str(file.relative_to(f"demo/{name}")) for file in Path("demo", name).rglob("*") if file.is_file()}
        assert {"model.json", "heads.safetensors", "encoder/model.safetensors", "encoder/tokenizer.json"} <= files
    assert json.loads(Path("demo/best/model.json").read_text())["tasks"]["sst"]["labels"][0] == "very negative"


def test_config_toml_trains_the_same_run_again(capsys):
    assert run([*TRAIN, "--head", "sts=cosine:dropout=0.2", "--task-weight", "sst=0.5", "--out", "one"]) == 0
    assert run(["train", "--config", "one/config.toml", "--out", "two"]) == 0
    assert Path("one/config.toml").read_text() == Path("two/config.toml").read_text()
    first, second = (json.loads(Path(name, "run.json").read_text())["scores"] for name in ("one", "two"))
    assert first == second
    assert run(["train", "--config", "one/config.toml", "--set", "optim.lr=1e-3", "--out", "three"]) == 0
    assert tomllib.loads(Path("three/config.toml").read_text())["optim"]["lr"] == 1e-3
    assert json.loads(Path("three/run.json").read_text())["scores"] != first


def test_every_option_reaches_the_configuration(capsys):
    options = {
        "--combiner": ("mean", "combiner.name", "mean"),
        "--epochs": ("7", "train.epochs", 7),
        "--max-steps": ("9", "train.max_steps", 9),
        "--batch-size": ("4", "train.batch_size", 4),
        "--accumulate": ("2", "train.accumulate", 2),
        "--step": ("one", "train.step", "one"),
        "--mixer": ("capped:rows=10", "mixer.rows", 10),
        "--lr": ("0.01", "optim.lr", 0.01),
        "--weight-decay": ("0.2", "optim.weight_decay", 0.2),
        "--max-norm": ("0", "optim.max_norm", 0.0),
        "--scheduler": ("constant", "scheduler.name", "constant"),
        "--patience": ("0", "train.patience", 0),
        "--select-on": ("sst.macro_f1", "train.select_on", "sst.macro_f1"),
        "--dropout": ("0.3", "model.dropout", 0.3),
        "--encoder-dropout": ("0.4", "model.encoder_dropout", 0.4),
        "--max-length": ("20", "data.max_length", 20),
        "--max-train-rows": ("33", "data.max_train_rows", 33),
        "--seed": ("5", "train.seed", 5),
        "--precision": ("fp32", "train.precision", "fp32"),
        "--device": ("cpu", "train.device", "cpu"),
        "--threads": ("1", "train.threads", 1),
        "--task-weight": ("sts=2", "tasks.sts.weight", 2.0),
        "--head": ("sts=concat", "tasks.sts.head.name", "concat"),
    }
    given = [part for name, (value, _, _) in options.items() for part in (name, value)]
    assert run(["train", "--task", "sst", "--task", "sts", "--sample", "--encoder", "tiny", "--dry-run", *given]) == 0
    printed = capsys.readouterr().out
    tree = tomllib.loads(printed[printed.index("augment = ") :])
    for name, (_, key, wanted) in options.items():
        value = tree
        for part in key.split("."):
            value = value[part]
        assert str(value) == str(wanted), name
    assert not Path("runs").exists()


def test_help_names_the_real_defaults(capsys, monkeypatch):
    from mtk.config import RunConfig, TaskConfig

    monkeypatch.setenv("COLUMNS", "400")
    run(["train", "--help"])
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    config = RunConfig(tasks={"sst": TaskConfig(kind="sst")})
    for option, value in {
        "epochs": config.train.epochs,
        "batch-size": config.train.batch_size,
        "step": config.train.step,
        "patience": config.train.patience,
        "select-on": config.train.select_on,
        "seed": config.train.seed,
        "precision": config.train.precision,
        "device": config.train.device,
        "lr": config.optim.lr,
        "weight-decay": config.optim.weight_decay,
        "max-norm": f"{config.optim.max_norm:g}",
        "dropout": config.model.dropout,
        "max-length": config.data.max_length,
        "combiner": config.combiner.name,
        "scheduler": config.scheduler.name,
        "encoder": config.encoder.name,
        "mixer": f"{config.mixer.name}, 8,000 rows",
    }.items():
        assert re.search(rf"--{option} [^│]*\(default: {re.escape(str(value))}\)", printed), option


def test_seeds_repeat_the_run_and_show_the_spread(capsys):
    assert run([*TRAIN, "--seeds", "2", "--seed", "3", "--out", "many"]) == 0
    printed = capsys.readouterr().out
    assert "seed 3" in printed and "seed 4" in printed and "mean" in printed and "sd" in printed
    assert {path.name for path in Path("many").iterdir()} == {"seed-3", "seed-4"}


def test_init_starts_from_a_run_with_other_tasks(capsys):
    assert run([*TRAIN, "--out", "first"]) == 0
    again = ["train", "--task", "sst", "--task", "quora", "--sample", *SMALL, "--init", "first", "--out", "second"]
    assert run(again) == 0
    assert "not from that run, starts fresh: head quora" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_saves_and_says_how_to_resume(number, tmp_path):
    command = [sys.executable, "-m", "mtk", *TRAIN, "--epochs", "400", "--patience", "0", "--out", "cut"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
    for _ in range(600):
        if Path("cut/last").exists():
            break
        time.sleep(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "mtk train --resume cut" in out and "Traceback" not in err
    assert json.loads(Path("cut/run.json").read_text())["status"] == "stopped"
    before = len(Path("cut/metrics.jsonl").read_text().splitlines())
    process = subprocess.Popen([sys.executable, "-m", "mtk", "train", "--resume", "cut"], stdout=subprocess.PIPE)
    for _ in range(600):
        if len(Path("cut/metrics.jsonl").read_text().splitlines()) > before + 3:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert b"resuming at epoch" in process.communicate(timeout=60)[0]


# ---------------------------------------------------------------------------------------------- one clear line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train"], "no task: expected at least one --task NAME or --task FILE.toml; known tasks: auto, cfimdb,"),
        (["train", "--task", "stts"], "unknown task 'stts'; did you mean 'sts'?"),
        (["train", "--task", "sst", "--combiner", "pcgad"], "unknown combiner 'pcgad'; did you mean 'pcgrad'?"),
        (["train", "--task", "sst", "--head", "sst=linaer"], "unknown head 'linaer'; did you mean 'linear'?"),
        (["train", "--task", "sst", "--encoder", "minlim"], "unknown encoder 'minlim'; did you mean 'minilm'?"),
        (["train", "--task", "sst", "--head", "sts=linear"], "no such task in this run"),
        (["train", "--task", "sst", "--head", "concat"], "head 'concat' compares two texts, but task 'sst' has one"),
        (["train", "--task", "sst", "--scheduler", "linear:warmupp=1"], "did you mean 'warmup'?"),
        (["train", "--task", "sst", "--mixer", "capped:rows=many"], "rows"),
        (["train", "--task", "sst", "--set", "optim.lrr=1"], "unknown key 'optim.lrr'; did you mean 'lr'?"),
        (["train", "--task", "sst", "--set", "optim.lr"], "expected section.key=value, found 'optim.lr'"),
        (["train", "--task", "sst", "--lr", "-1"], "optim.lr"),
        (["train", "--task", "sst", "--epochs", "two"], "--epochs"),
        (["train", "--task", "sst", "--epochs", "0"], "train.epochs"),
        (["train", "--task", "sst", "--step", "some"], "train.step"),
        (["train", "--task", "sst", "--task", "sts", "--step", "one", "--combiner", "pcgrad"], "nothing to combine"),
        (["train", "--task", "sst", "--batch-size", "x"], "--batch-size: expected a whole number or TASK=NUMBER"),
        (["train", "--task", "sst", "--accumulate", "99"], "cannot be split"),
        (["train", "--task", "sst", "--select-on", "sst.bleu"], "has no such metric"),
        (["train", "--task", "sst", "--select-on", "qnli"], "no such task"),
        (["train", "--task", "sst", "--task", "sst"], "named twice"),
        (["train", "--task", "sst", "--config", "none.toml"], "none.toml: cannot be read"),
        (["train", "--task", "sst", "--data", "nowhere"], "no such folder"),
        (["train", "--task", "sst", "--init", "nowhere"], "no such run folder"),
        (["train", "--resume", "nowhere"], "no such run folder"),
        (["train", "--task", "sst", "--frobnicate"], "--frobnicate"),
        (["trian"], "trian"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, said):
    extra = ["--encoder", "tiny"] if arguments[0] == "train" and "--encoder" not in arguments else []
    line = fails(capsys, *arguments, *(extra if "--resume" not in arguments else []))
    assert said in line


def test_an_out_folder_with_something_in_it_is_left_alone(capsys):
    Path("full").mkdir()
    Path("full/thesis.txt").write_text("years of work")
    assert "expected a new or empty folder" in fails(capsys, *TRAIN, "--out", "full")
    assert [path.name for path in Path("full").iterdir()] == ["thesis.txt"]


def test_resume_refuses_changes_and_finished_runs(capsys):
    assert run([*TRAIN, "--out", "done"]) == 0
    capsys.readouterr()
    assert "--resume with changed tasks" in fails(capsys, "train", "--resume", "done", "--task", "quora")
    assert "optim.lr is 7e-05 in the run, found 0.5" in fails(capsys, "train", "--resume", "done", "--lr", "0.5")
    assert "the run is finished" in fails(capsys, "train", "--resume", "done")
    facts = json.loads(Path("done/run.json").read_text())
    Path("done/run.json").write_text(json.dumps({**facts, "format": 99}))
    assert "a run folder of format 99" in fails(capsys, "train", "--resume", "done")


DATA = "\tid\tsentence\tsentiment\n"
ROW = "0\ta\tA fine film .\t3\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "empty"),
        (DATA.encode(), "expected rows below the header"),
        (b"\tid\ttext\tsentiment\n0\ta\tA fine film .\t3\n", "sentence"),
        ((DATA + "0\ta\tA fine film .\t7\n").encode(), ":2"),
        ((DATA + ROW + "1\tb\tToo\tmany\tfields\t3\n").encode(), ":3"),
        ((DATA + ROW + "1\tb\tTrès bon .\t3\n").encode("latin-1"), "UTF-8"),
        ((DATA + ROW + "1\tb\t   \t3\n").encode(), ":3"),
        (None, "expected"),
    ],
)
def test_bad_data_is_one_line_with_file_and_place(capsys, tmp_path, text, said):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "ids-sst-dev.csv").write_text(DATA + ROW)
    if text is not None:
        (folder / "ids-sst-train.csv").write_bytes(text)
    line = fails(capsys, "train", "--task", "sst", "--data", str(folder), "--encoder", "tiny", "--out", "never")
    assert said in line and "ids-sst-train.csv" in line
    assert not Path("never").exists()


def test_a_broken_plugin_is_warned_of_and_left_out(capsys, monkeypatch):
    from mtk import plugins
    from mtk.registration import Broken

    monkeypatch.setattr(
        plugins, "broken", lambda: [Broken("bad", "mtk-bad", "1", "plugin 'bad' is left out: no module x")]
    )
    assert run([*TRAIN, "--max-steps", "2", "--out", "fine"]) == 0
    assert "warning: plugin 'bad' is left out: no module x\n" in capsys.readouterr().err


def test_the_configuration_says_where_the_rows_came_from(capsys, monkeypatch, tmp_path):
    from mtk_text.sources import SAMPLE

    monkeypatch.setenv("MTK_DATA", str(SAMPLE))
    assert run(["train", "--task", "sts", *SMALL, "--out", "here"]) == 0
    monkeypatch.delenv("MTK_DATA")
    tree = tomllib.loads(Path("here/config.toml").read_text())
    assert tree["data"]["folder"] == str(SAMPLE) and tree["data"]["sample"] == "never"
    assert tree["mixer"] == {"name": "capped", "rows": 8000} and tree["tasks"]["sts"]["head"]["name"] == "linear"
    assert run(["train", "--config", "here/config.toml", "--out", "again"]) == 0
    assert run(["evaluate", "again", "--task", "sts"]) == 0
    assert "BUILT-IN SAMPLE" not in capsys.readouterr().out
    assert run([*TRAIN, "--out", "sample"]) == 0
    monkeypatch.setenv("MTK_DATA", str(tmp_path))
    assert run(["train", "--config", "sample/config.toml", "--out", "sample-again"]) == 0
    assert run(["train", "--init", "sample", "--sample", "--max-steps", "2", *SMALL[4:], "--out", "warm"]) == 0
    assert tomllib.loads(Path("warm/config.toml").read_text())["tasks"].keys() == {"sst", "sts"}


def test_a_run_goes_on_from_elsewhere_with_its_own_encoder(capsys, monkeypatch, tmp_path):
    import shutil

    assert run([*TRAIN, "--out", "first"]) == 0
    shutil.copytree("first/best/encoder", "weights")
    from mtk import session
    from mtk.settings import configure

    begun = session.start(
        configure(tasks=["sst"], sample="always", encoder="weights", max_train_rows=48, epochs=2, threads=1),
        tmp_path / "cut",
    )
    for event in begun.run():
        if getattr(event, "done", 0) == 2:
            begun.stop()
    shutil.rmtree("weights")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert run(["train", "--resume", str(tmp_path / "cut")]) == 0


def test_a_dead_run_is_not_called_running(capsys):
    assert run([*TRAIN, "--out", "runs/dead"]) == 0
    facts = json.loads(Path("runs/dead/run.json").read_text())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    facts |= {"status": "running", "process": {**facts["process"], "pid": gone.pid}}
    Path("runs/dead/run.json").write_text(json.dumps(facts))
    capsys.readouterr()
    assert run(["runs"]) == 0
    assert "interrupted" in capsys.readouterr().out
