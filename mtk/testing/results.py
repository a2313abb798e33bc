"""Checks of what is written from results, and of recipes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mtk import plugins
from mtk.config import differences, make_config
from mtk.device import Hardware
from mtk.errors import MTKError
from mtk.exports import Exported
from mtk.inference import TrainedModel
from mtk.model import MultitaskModel
from mtk.recipes import load_recipe, resolved
from mtk.scoretable import Curve, Difference, ScoreRow, ScoreTable
from mtk.targets import Classes, Range
from mtk.testing.rows import ToyRows

TABLE = ScoreTable(
    title='Scores of <"a & b"> | 100 % \\ $_{x}$',
    columns=("sst", "sts", "mean"),
    rows=(
        ScoreRow(
            "sum & <co>",
            {"sst": [0.5, 0.52], "sts": [0.8, 0.9], "mean": [0.65, 0.71]},
            published={"sst": 0.499},
            best_epochs=(2, 1),
            curves=[Curve(seed, {"sst": [0.4, 0.5]}, {}, 2) for seed in (1, 2)],
            seconds=12.5,
        ),
        ScoreRow(
            "a|b_c",
            {"sst": [0.6]},
            status="1 of 2 seeds",
            against="sum & <co>",
            differences={"sst": Difference(0.1, None, None, 1)},
        ),
        ScoreRow("nothing", status="failed: 100 % of it"),
    ),
    caption=("One fact & <another>.",),
    published="a paper",
)


def check_report(make: Callable[[], Callable[[ScoreTable, Path], Path]]) -> None:
    """A report's files: in a folder that need not be there, the same when written again; of a table with gaps, marks
    that file formats give a meaning, and of one without rows, which it may refuse (MTKError).

    make: builds one. Raises AssertionError.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder, again = Path(temporary, "new", "folder"), Path(temporary, "again")
        main = make()(TABLE, folder)
        assert isinstance(main, Path) and main.is_file(), f"expected the path of the main file, found {main!r}"
        assert folder in main.parents, f"expected files in the given folder, found {main}"
        make()(TABLE, again)
        _assert_same(_contents(folder), _contents(again))
        hidden = [name for name in _contents(folder) if Path(name).name.startswith(".")]
        assert not hidden, f"expected no file of its own to stay behind, found {hidden}"
        _writes_or_refuses(lambda: make()(ScoreTable("Nothing", ("sst",), ()), Path(temporary, "empty")))


def check_exporter(make: Callable[[], Callable[..., Any]], model: TrainedModel | None = None) -> None:
    """An exporter's files: in a folder that need not be there, the same when written again. Of a model whose tasks it
    has no format for it says so, by an MTKError or in its answer.

    make: builds one. model: in place of an untrained one with a task of classes and one of pairs and a range.
    Raises AssertionError.
    """
    model = model or toy_model()
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary, "new", "folder"), Path(temporary, "again")]
        for folder in folders:
            answer = _writes_or_refuses(lambda: make()(model, folder, None))  # noqa: B023
            assert isinstance(answer, str) or (answer and all(isinstance(file, Exported) for file in answer)), (
                f"expected a list of mtk.Exported, one a file, found {answer!r}"
            )
        _assert_same(*map(_contents, folders))


def toy_model() -> TrainedModel:
    """An untrained model of the smallest encoder with toy tasks `single` (two classes) and `paired` (a range)."""
    tasks = {
        "single": ToyRows(Classes(["no", "yes"]), [0, 1, 1, 0], paired=False),
        "paired": ToyRows(Range(0, 5), [0.0, 5.0, 2.5, 1.0], paired=True),
    }
    for name, task in tasks.items():
        task.name = name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = plugins.build("encoder", "tiny")
        heads = {n: plugins.build("head", "linear", encoder.hidden_size, task.target) for n, task in tasks.items()}
    config = make_config({"tasks": {name: {} for name in tasks}, "encoder": "tiny"})
    return TrainedModel(config, tasks, MultitaskModel(encoder, heads).eval(), Hardware("cpu", "fp32", 1, "torch"))


def check_recipe(make: Callable[[], Path]) -> None:
    """A recipe's file: every configuration in it is one, its plugins are here, and its `changes` are what it changes.

    make: gives the file. Raises AssertionError, and MTKError that says what is wrong with the file.
    """
    file = make()
    assert file.suffix == ".toml", f"expected a TOML file, found {file.name}"
    recipe = load_recipe(str(file))
    found: set[str] = set()
    for encoder in (recipe.encoder, *recipe.overlays):
        own = resolved(recipe.tree(encoder))
        below = own if recipe.base is None else resolved(recipe.base.tree(encoder))
        found |= {key for key, _, _ in differences(below, own)}
    unsaid = sorted(key for key in found if not any(_covers(change, key) for change in recipe.changes))
    assert not unsaid, f"{file.name}: it changes {', '.join(unsaid)} too: name them in `changes`"
    idle = [change for change in recipe.changes if not any(_covers(change, key) for key in found)]
    assert recipe.base is None or not idle, f"{file.name}: `changes` names {', '.join(idle)}, which stay as they were"


def _covers(change: str, key: str) -> bool:
    return f"{key}.".startswith(f"{change}.")


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def _assert_same(first: dict[str, bytes], second: dict[str, bytes]) -> None:
    differing = sorted(name for name in {*first, *second} if first.get(name) != second.get(name))
    assert not differing, f"written again, other files or other contents: {', '.join(differing)}"


def _writes_or_refuses(write: Callable[[], Any]) -> Any:
    """What it gives, or the one line of its refusal."""
    try:
        return write()
    except MTKError as error:
        assert "\n" not in str(error), f"expected a refusal in one line, found {error!s}"
        return str(error)
