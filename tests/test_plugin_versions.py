"""A run used again with another version of a plugin than it was made with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mtk
from mtk import session
from mtk.cli.app import run
from mtk.config import make_config
from mtk.plugins import Plugins
from tests.test_broken_plugins import BadTask, plugin, use  # noqa: F401
from tests.test_docs import SMALL_OPTIONS


class Sound(BadTask):
    def examples(self, split: str) -> Any:
        return [mtk.Example(str(i), "a text", None, i % 2) for i in range(4)]


class Renamed(Sound):
    target = mtk.Classes(["bad", "good"])


class More(Sound):
    target = mtk.Classes(["no", "yes", "maybe"])


def older(out: Path) -> None:
    """Makes the run one of version 0.2 of the package."""
    facts = json.loads((out / "run.json").read_text())
    facts["plugins"]["task bad"] = "mtk-bad 0.2"
    (out / "run.json").write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("build", "name", "why"),
    [
        (Sound, "bad", ""),
        (Renamed, "bad", "labels no, yes.* the run used mtk-bad 0.2, and 0.3 is installed"),
        (More, "bad", "labels no, yes.* the run used mtk-bad 0.2, and 0.3 is installed"),
        (Sound, "other", r"the run uses the task 'bad' of mtk-bad 0.2, .*pip install mtk-bad==0.2"),
    ],
)
def test_another_version_is_told_and_a_task_that_changed_is_left_out(
    build: Any,
    name: str,
    why: str,
    use: Callable[[Any], Plugins],  # noqa: F811
    tmp_path: Path,
) -> None:
    use(plugin("task", Sound))
    out = tmp_path / "r"
    assert run(["train", "--task", "sst", "--task", "bad", "--sample", *SMALL_OPTIONS, "--out", str(out)]) == 0
    older(out)
    use(plugin("task", build, name))
    with pytest.warns(UserWarning) as caught:
        model = mtk.load(out, device="cpu", threads=1)
    said = [str(one.message) for one in caught]
    told = f"{out}: the run used mtk-bad 0.2, and 0.3 is installed (pip install mtk-bad==0.2 for the run's task bad)"
    assert (told in said) == (name == "bad")
    assert list(model.tasks) == (["sst"] if why else ["sst", "bad"])
    if why:
        with pytest.raises(mtk.PluginError, match=f"task 'bad' is left out: .*{why}"):
            model.predict("bad", ["a text"])


def test_a_task_that_changed_in_the_same_version_is_left_out_too(
    use: Callable[[Any], Plugins],  # noqa: F811
    tmp_path: Path,
) -> None:
    use(plugin("task", Sound))
    out = tmp_path / "r"
    assert run(["train", "--task", "sst", "--task", "bad", "--sample", *SMALL_OPTIONS, "--out", str(out)]) == 0
    use(plugin("task", More))
    with pytest.warns(UserWarning, match="task 'bad' is left out: task 'bad' was trained on the labels no, yes"):
        model = mtk.load(out, device="cpu", threads=1)
    assert list(model.tasks) == ["sst"] and len(model.predict("sst", ["a film"])) == 1


class Picky(mtk.DataError):
    def __init__(self, file: str, line: int) -> None:
        super().__init__(f"{file}:{line}: no")


class Gone(Sound):
    def __init__(self, context: mtk.TaskContext) -> None:
        raise Picky("rows.csv", 3)


def test_a_fault_of_any_class_is_told(use: Callable[[Any], Plugins], tmp_path: Path) -> None:  # noqa: F811
    use(plugin("task", Sound))
    out = tmp_path / "r"
    assert run(["train", "--task", "bad", *SMALL_OPTIONS, "--out", str(out)]) == 0
    older(out)
    use(plugin("task", Gone))
    with (
        pytest.warns(UserWarning, match="the run used mtk-bad 0.2"),
        pytest.raises(mtk.PluginError, match=r"rows\.csv:3: no; the run used mtk-bad 0.2"),
    ):
        mtk.load(out, device="cpu", threads=1)


class Plain(mtk.Head):
    hidden = 4

    def __init__(self, hidden_size: int, target: mtk.Target) -> None:
        super().__init__(hidden_size, target)
        self.first = torch.nn.Linear(hidden_size, self.hidden)
        self.last = torch.nn.Linear(self.hidden, target.size)

    def forward(self, *features: mtk.Features) -> Any:
        return self.last(self.first(features[0].pooled))


class Wider(Plain):
    hidden = 8


def test_a_head_of_another_shape_leaves_out_its_task_alone(
    use: Callable[[Any], Plugins],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(plugin("head", Plain))
    out = tmp_path / "r"
    tasks = ["--task", "sst", "--task", "sts", "--head", "sts=bad"]
    assert run(["train", *tasks, "--sample", *SMALL_OPTIONS, "--out", str(out)]) == 0
    use(plugin("head", Wider))
    with pytest.warns(UserWarning, match="task 'sts' is left out: the head of task 'sts' is not the one that was tr"):
        model = mtk.load(out, device="cpu", threads=1)
    assert list(model.tasks) == ["sst"]
    alone = tmp_path / "alone"
    use(plugin("head", Plain))
    assert run(["train", *tasks[2:], "--sample", *SMALL_OPTIONS, "--out", str(alone)]) == 0
    use(plugin("head", Wider))
    with pytest.raises(mtk.CheckpointError, match=f"^{alone}: the head of task 'sts' .* sts.first.bias"):
        mtk.load(alone, device="cpu", threads=1)


def test_a_resume_with_another_version_is_told_and_recorded(
    use: Callable[[Any], Plugins],  # noqa: F811
    tmp_path: Path,
) -> None:
    use(plugin("task", Sound))
    out = tmp_path / "r"
    config = {
        "tasks": {"bad": {}},
        "encoder": "tiny",
        "train": {"epochs": 2, "device": "cpu", "precision": "fp32", "threads": 1},
    }
    events = session.start(make_config(config), out)
    for event in events.run():
        if isinstance(event, mtk.EpochDone):
            events.stop()
    older(out)
    with pytest.warns(UserWarning, match="the run used mtk-bad 0.2, and 0.3 is installed"):
        again = session.resume(out)
    for _ in again.run():
        pass
    facts = json.loads((out / "run.json").read_text())
    assert facts["status"] == "finished" and facts["resumed_with"] == {"task bad": "mtk-bad 0.3"}
    assert facts["plugins"]["task bad"] == "mtk-bad 0.2"
