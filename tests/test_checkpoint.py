"""Checkpoints: saved whole or not at all, and read without trust."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from mtk import checkpoint
from mtk.checkpoint import (
    load_encoder,
    load_heads,
    load_matching,
    load_training,
    read_description,
    replace_folder,
    save_model,
    save_training,
    settle,
)
from mtk.errors import CheckpointError
from mtk.model import MultitaskModel
from mtk.targets import Classes
from mtk_encoders.tiny import tiny_bert
from tests.toys import ToyLinear

FULL = OSError(28, os.strerror(28))


def model(tasks=("a", "b"), classes=2) -> MultitaskModel:
    torch.manual_seed(0)
    heads = {name: ToyLinear(8, Classes([str(i) for i in range(classes)])) for name in tasks}
    return MultitaskModel(tiny_bert(hidden_size=8, layers=1, dropout=0.25), heads)


STATE = {
    "position": {"done": 3, "best": None},
    "moments": {"w": {"step": torch.tensor(3.0), "avg": torch.arange(3.0)}},
}


def write(value: float):
    def save(folder: Path) -> None:
        made = model()
        nn.init.constant_(made.heads["a"].out.weight, value)
        save_model(folder, made, {"tasks": {}})
        save_training(folder, {**STATE, "value": value})

    return save


def value_of(folder: Path) -> float:
    made = model()
    load_heads(folder, made)
    value = load_training(folder)["value"]
    assert (made.heads["a"].out.weight == value).all()
    assert load_encoder(folder).hidden_size == 8
    return value


# ---------------------------------------------------------------------------------------------- replacing


def test_a_folder_is_replaced(tmp_path):
    folder = tmp_path / "deep" / "last"
    for value in (1.0, 2.0, 3.0):
        replace_folder(folder, write(value))
        assert value_of(folder) == value
        assert [p.name for p in folder.parent.iterdir()] == ["last"]


FAULTS = [
    (Path, "mkdir", FULL),
    (Path, "write_text", FULL),
    (Path, "rename", FULL),
    (os, "fsync", FULL),
    (checkpoint, "save_file", SafetensorError("Error while serializing: No space left on device (os error 28)")),
]


@pytest.mark.parametrize("existed", [True, False])
@pytest.mark.parametrize(("owner", "name", "error"), FAULTS, ids=[f"{n}" for _, n, _ in FAULTS])
def test_a_fault_at_any_write_leaves_the_previous_checkpoint(tmp_path, owner, name, error, existed):
    folder = tmp_path / "last"
    if existed:
        replace_folder(folder, write(1.0))
    failures = 0
    for nth in range(1, 40):
        with pytest.MonkeyPatch.context() as patch:
            real, calls = getattr(owner, name), 0

            def failing(*args, real=real, nth=nth, **more):
                nonlocal calls
                calls += 1
                if calls == nth:
                    raise error
                return real(*args, **more)

            patch.setattr(owner, name, failing)
            try:
                replace_folder(folder, write(2.0))
            except CheckpointError as caught:
                failures += 1
                text = str(caught)
                assert "\n" not in text and str(folder) in text
                assert "no space left on the device" in text
                assert ("previous checkpoint there still stands" in text) == existed
            else:
                break
        assert [p.name for p in tmp_path.iterdir()] == ["last"] * existed, "litter"
        if existed:
            assert value_of(folder) == 1.0
    assert failures >= {"mkdir": 2, "write_text": 2, "rename": 1 + existed, "fsync": 6, "save_file": 2}[name]
    assert value_of(folder) == 2.0


def test_a_tokenizer_that_finds_no_room(tmp_path, monkeypatch):
    made = model()
    replace_folder(tmp_path / "last", write(1.0))

    def save(folder: Path) -> None:
        raise Exception("No space left on device (os error 28)")  # what the tokenizers library raises

    monkeypatch.setattr(made.encoder, "save", save)
    with pytest.raises(CheckpointError, match="no space left on the device"):
        replace_folder(tmp_path / "last", lambda new: save_model(new, made, {}))
    assert value_of(tmp_path / "last") == 1.0
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TypeError("a bug"), CheckpointError("the plugin's own")])
def test_other_errors_pass_and_leave_no_litter(tmp_path, error):
    replace_folder(tmp_path / "last", write(1.0))

    def interrupted(folder: Path) -> None:
        write(2.0)(folder)
        raise error

    with pytest.raises(type(error)) as caught:
        replace_folder(tmp_path / "last", interrupted)
    assert caught.value is error
    assert value_of(tmp_path / "last") == 1.0
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


@pytest.mark.parametrize("complete", [True, False])
def test_a_crash_between_the_renames_is_healed(tmp_path, complete):
    folder = tmp_path / "last"
    replace_folder(folder, write(1.0))
    folder.rename(tmp_path / ".last.old")
    if complete:
        shutil.copytree(tmp_path / ".last.old", tmp_path / ".last.new")
    assert settle(folder) == folder
    assert value_of(folder) == 1.0
    # and so it is by the next save, which must not lose the only copy when it fails
    folder.rename(tmp_path / ".last.old")

    def fail(new: Path) -> None:
        raise FULL

    with pytest.raises(CheckpointError, match="still stands"):
        replace_folder(folder, fail)
    assert value_of(folder) == 1.0
    replace_folder(folder, write(2.0))
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


def test_a_crash_after_the_renames_leaves_litter_that_the_next_save_takes_away(tmp_path):
    folder = tmp_path / "last"
    replace_folder(folder, write(2.0))
    shutil.copytree(folder, tmp_path / ".last.old")
    assert value_of(settle(folder)) == 2.0
    replace_folder(folder, write(3.0))
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


def test_settling_what_cannot_be_renamed(tmp_path, monkeypatch):
    (tmp_path / ".last.old").mkdir()
    monkeypatch.setattr(Path, "rename", lambda *a: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(CheckpointError, match="cannot be renamed to last"):
        settle(tmp_path / "last")


# ---------------------------------------------------------------------------------------------- the model


@pytest.fixture
def saved(tmp_path) -> Path:
    replace_folder(tmp_path / "last", write(1.0))
    return tmp_path / "last"


def test_an_encoder_comes_back_as_it_was_or_with_another_dropout(saved):
    for key, tensor in model().encoder.state_dict().items():
        assert torch.equal(load_encoder(saved).state_dict()[key], tensor)
    assert load_encoder(saved).config.hidden_dropout_prob == 0.25
    assert load_encoder(saved, 0.5).config.hidden_dropout_prob == 0.5


def test_heads_must_fit_exactly(saved):
    for other in (model(("a", "c")), model(classes=3)):
        with pytest.raises(CheckpointError, match=r"parameters of heads are missing or have another shape: [ac]\.out"):
            load_heads(saved, other)


def test_a_warm_start_takes_the_heads_that_fit(saved):
    other = model(("b", "a", "c"))
    fresh = other.heads["c"].out.weight.detach().clone()
    assert load_matching(saved, other) == ["head c"]
    assert (other.heads["a"].out.weight == 1.0).all()
    assert torch.equal(other.heads["c"].out.weight, fresh)
    assert load_matching(saved, model(classes=3)) == ["head a", "head b"]


def test_a_head_with_tied_weights_is_saved(tmp_path):
    tied = model()
    tied.heads["a"].again = tied.heads["a"].out
    tmp_path.joinpath("x").mkdir()
    save_model(tmp_path / "x", tied, {})
    load_heads(tmp_path / "x", tied)


def test_the_file_of_a_checkpoint_is_data(saved):
    names = {p.name for p in saved.rglob("*") if p.is_file()}
    assert {name.rpartition(".")[2] for name in names} == {"json", "safetensors"}
    assert read_description(saved)["encoder"] == {
        "name": "bert",
        "options": {"pooling": "mean", "dropout": 0.25, "pair": "standard", "token_types": True},
    }


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"format": 99}', '{"format": "1"}'])
def test_a_description_of_another_kind(saved, text):
    (saved / "model.json").write_text(text)
    for load in (load_encoder, load_training, read_description):
        with pytest.raises(CheckpointError) as caught:
            load(saved)
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------- training state


def test_the_state_comes_back_as_it_was(tmp_path):
    state = {
        **STATE,
        "numbers": [1, 2.5, -0.1 + 0.3, 1e-320, 2**60, True, None, "text"],
        "nested": {"a.b": {"$tensor": "no tensor"}, "": [{"x": [torch.zeros(0), torch.tensor(7)]}]},
        "keys": {1: "one", 2: torch.ones(2, dtype=torch.float64)},
        "tuple": (1, torch.zeros(2, dtype=torch.uint8)),
        "infinite": [math.inf, -math.inf],
        "shared": [part := torch.arange(4.0), part, part[1:]],
        "turned": torch.arange(6.0).view(2, 3).T,
        "empty": {},
    }
    replace_folder(tmp_path / "x", lambda f: (write(1.0)(f), save_training(f, state)))
    found = load_training(tmp_path / "x")
    torch.testing.assert_close(found["moments"], state["moments"], rtol=0, atol=0)
    for key in ("position", "numbers", "infinite", "empty"):
        assert found[key] == state[key]
    assert found["nested"]["a.b"] == {"$tensor": "no tensor"}
    assert found["keys"][1] == "one" and found["keys"][2].dtype == torch.float64
    assert found["nested"][""][0]["x"][1] == 7
    assert torch.equal(found["tuple"][1], torch.zeros(2, dtype=torch.uint8))
    assert torch.equal(found["shared"][2], part[1:]) and torch.equal(found["turned"], state["turned"])


def test_a_state_without_tensors(tmp_path):
    state = {"position": {}, "moments": {}}
    replace_folder(tmp_path / "x", lambda f: (write(1.0)(f), save_training(f, state)))
    assert load_training(tmp_path / "x") == state


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '{"a": 1}', '{"$map": 3}', '{"$map": [["position", 1], ["moments", 2]]}', '{"$tensor": "99"}'],
)
def test_a_damaged_state(saved, text):
    (saved / "training.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"training\.json: damaged") as caught:
        load_training(saved)
    assert "\n" not in str(caught.value)


def test_tensors_that_are_not_those_of_the_state(saved):
    save_file({"other": torch.zeros(1)}, saved / "training.safetensors")
    with pytest.raises(CheckpointError, match="damaged"):
        load_training(saved)


@pytest.mark.parametrize("part", ["heads.safetensors", "training.safetensors", "encoder/model.safetensors"])
def test_truncated_or_missing_tensors(saved, part):
    raw = (saved / part).read_bytes()

    def load() -> None:
        value_of(saved)

    for size in (0, 1, 7, 8, 60, len(raw) // 2, len(raw) - 1):
        (saved / part).write_bytes(raw[:size])
        with pytest.raises(CheckpointError, match="corrupt or truncated") as caught:
            load()
        assert Path(part).name in str(caught.value) and "\n" not in str(caught.value)
    (saved / part).unlink()
    with pytest.raises(CheckpointError, match="missing"):
        load()


def test_json_is_strict_enough_for_others(saved):
    assert json.loads((saved / "training.json").read_text())["$map"]
