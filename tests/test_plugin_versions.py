"""A run used again with another version of a plugin than it was made with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mtk
from mtk.cli.app import run
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
    facts = json.loads((out / "run.json").read_text())
    facts["plugins"]["task bad"] = "mtk-bad 0.2"
    (out / "run.json").write_text(json.dumps(facts))
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
