"""The run folder: self-contained, readable, and refused where it is not what it should be."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from mtk import formats, session
from mtk.errors import CheckpointError, ConfigError
from mtk.run import RunFolder, default_out, provenance, write_atomically
from mtk.training import Position
from tests.toy_plugin import config, write_rows

pytestmark = pytest.mark.usefixtures("toys")


def refusal(error, call, *args) -> str:
    with pytest.raises(error) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------- creating and opening


def test_out_may_be_new_or_empty(tmp_path):
    for out in (tmp_path / "a" / "b", tmp_path / "empty"):
        if out.name == "empty":
            out.mkdir()
        folder = RunFolder.create(out, config(), seed=3)
        assert sorted(p.name for p in out.iterdir()) == ["config.toml", "run.json"]
        assert RunFolder.open(out).facts["seed"] == 3
        assert folder.config == config()


def test_out_must_not_hold_anything(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    text = refusal(ConfigError, RunFolder.create, tmp_path, config())
    assert "expected a new or empty folder, found files in it" in text and "--resume" not in text
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    RunFolder.create(tmp_path / "run", config())
    assert f"mtk train --resume {tmp_path / 'run'}" in refusal(
        ConfigError, RunFolder.create, tmp_path / "run", config()
    )
    assert "found a file" in refusal(ConfigError, RunFolder.create, tmp_path / "notes.txt", config())


def test_out_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refusal(ConfigError, RunFolder.create, tmp_path / "file" / "run", config())
    real = Path.mkdir

    def mkdir(self, *args, **more):
        if self.name == "locked":
            raise PermissionError(13, os.strerror(13))
        return real(self, *args, **more)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert "cannot be written (Permission denied)" in refusal(
        ConfigError, RunFolder.create, tmp_path / "locked", config()
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "not a run folder (run.json: No such file or directory)"),
        ("{", "damaged, not JSON"),
        ("\udcff", "damaged, not JSON"),
        ("[]", "expected a JSON object, found list"),
        ("{}", "a run folder of format None (mtk ?)"),
        ('{"format": 2, "mtk": "3.0"}', "format 2 (mtk 3.0)"),
    ],
)
def test_opening_what_is_none_or_another_version_s(tmp_path, text, words):
    if text is not None:
        (tmp_path / "run.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert words in refusal(CheckpointError, RunFolder.open, tmp_path)


def test_opening_nothing(tmp_path):
    assert "no such run folder" in refusal(CheckpointError, RunFolder.open, tmp_path / "x")
    (tmp_path / "x").write_text("")
    assert "no such run folder" in refusal(CheckpointError, RunFolder.open, tmp_path / "x")


def test_default_names_do_not_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = default_out(config(combiner="pcgrad"))
    assert first.parent == Path("runs") and first.name.endswith("-words-pairs-tags-pcgrad")
    first.mkdir(parents=True)
    second = default_out(config(combiner="pcgrad"))
    assert second != first


# ---------------------------------------------------------------------------------------------- what is in it


def test_a_finished_run_tells_everything(finished):
    assert sorted(p.name for p in finished.iterdir()) == ["best", "config.toml", "last", "metrics.jsonl", "run.json"]
    folder = RunFolder.open(finished)
    facts = folder.facts
    assert facts["format"] == formats.RUN
    assert (facts["status"], facts["ended"], facts["command"], facts["seed"]) == (
        "finished", "epochs", "the command", 1
    )  # fmt: skip
    matmul = facts["hardware"].pop("matmul")
    assert facts["hardware"] == {"device": "cpu", "precision": "fp32", "threads": 1} and matmul in ("torch", "onednn")
    assert facts["plugins"]["task words"] == "toys 1.0"
    assert facts["plugins"]["head cosine"].startswith("multitask-toolkit")
    assert facts["versions"]["torch"] and facts["seconds"] > 0
    lines = list(folder.metrics())
    assert [line["event"] for line in lines] == (["step"] * 5 + ["epoch"]) * 3
    epochs = [line for line in lines if line["event"] == "epoch"]
    best = max(epochs, key=lambda line: line["selected"])
    assert facts["best_epoch"] == best["epoch"] and facts["scores"] == best["scores"] == folder.scores
    assert [line["best"] for line in epochs][best["epoch"] - 1]
    description = json.loads((finished / "best" / "model.json").read_text())
    assert description["tasks"]["words"] == {"kind": "words", "columns": ["text"], "labels": ["short", "long"]}


def test_best_is_the_best_epoch_s_model(tmp_path):
    from safetensors.torch import load_file

    from mtk.training import EpochDone

    tasks = {"a": {"kind": "scripted", "script": [1.0, 3.0, 2.0]}, "words": {}}
    run = session.start(config(tasks, train={"select_on": "a.scripted"}), tmp_path / "run")
    weights = []
    for event in run.run():
        if isinstance(event, EpochDone):
            weights.append(run.parts.model.heads["a"].out.weight.detach().clone())
    best = load_file(tmp_path / "run" / "best" / "heads.safetensors")["a.out.weight"]
    last = load_file(tmp_path / "run" / "last" / "heads.safetensors")["a.out.weight"]
    assert (best == weights[1]).all() and (last == weights[2]).all() and (best != last).any()
    assert RunFolder(tmp_path / "run").facts["best_epoch"] == 2


def test_its_configuration_makes_the_same_run_again(finished, tmp_path):
    folder = RunFolder(finished)
    list(session.start(folder.config, tmp_path / "again").run())
    for one, two in zip(folder.metrics(), RunFolder(tmp_path / "again").metrics(), strict=True):
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_a_missing_or_wrong_configuration(finished):
    (finished / "config.toml").write_text("[optim]\nlrr = 3\n[tasks.words]\n")
    assert "did you mean 'lr'" in refusal(ConfigError, lambda: RunFolder(finished).config)
    (finished / "config.toml").unlink()
    assert "config.toml: cannot be read" in refusal(ConfigError, lambda: RunFolder(finished).config)


def test_provenance_holds_the_hashes_of_the_data(tmp_path):
    write_rows(tmp_path, "a")
    settings = config({"a": {"kind": "filed"}}, data={"folder": str(tmp_path)}, augment=["nothing"])
    from mtk.assembly import build_tasks

    facts = provenance(settings, build_tasks(settings))
    raw = (tmp_path / "a-train.txt").read_bytes()
    assert facts["data"]["a"]["files"]["train"] == {"file": "a-train.txt", "sha256": hashlib.sha256(raw).hexdigest()}
    assert set(facts["data"]["a"]["files"]) == {"train", "dev"} and facts["data"]["a"]["sample"] is False
    assert facts["plugins"]["augmentation nothing"] == "toys 1.0"


# ---------------------------------------------------------------------------------------------- metrics.jsonl


def test_a_line_that_was_cut_off_is_left_out(finished):
    file = finished / "metrics.jsonl"
    whole = list(RunFolder(finished).metrics())
    raw = file.read_bytes()
    for cut in (1, 2, 30):
        file.write_bytes(raw[:-cut])
        assert list(RunFolder(finished).metrics()) == whole[: -1 if cut > 1 else None]
    file.unlink()
    assert list(RunFolder(finished).metrics()) == []


@pytest.mark.parametrize(
    ("position", "steps", "epochs"),
    [(Position(), 0, 0), (Position(0, 5, 5), 5, 0), (Position(1, 0, 5), 5, 1), (Position(1, 2, 7), 7, 1)],
)
def test_rewinding(finished, position, steps, epochs):
    folder = RunFolder(finished)
    lines = (finished / "metrics.jsonl").read_text().splitlines()
    folder.rewind(position)
    kept = (finished / "metrics.jsonl").read_text().splitlines()
    assert kept == lines[: steps + epochs]
    assert sum('"event": "epoch"' in line for line in kept) == epochs


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    write_atomically(file, "old")

    def fail(*args, **more):
        raise OSError(28, os.strerror(28))

    for name in ("write_text", "replace"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, name, fail)
            text = refusal(CheckpointError, write_atomically, file, "new")
        assert str(file) in text and "no space left on the device" in text and "previous file still stands" in text
        assert [p.name for p in tmp_path.iterdir()] == ["a.json"] and file.read_text() == "old"
