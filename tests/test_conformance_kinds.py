"""The conformance checks of searches, results and recipes bite, and so do those of what a checkpoint or bf16 needs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mtk
from mtk import Executor, Job, SearchState, Target, TokenBatch, TrialRecord, Tuner, testing
from mtk.testing.results import toy_model
from tests import toys

COUNT = itertools.count()


class Draws(Tuner):
    def next(self, state: SearchState) -> Job | None:
        return Job(state.epochs, state.sample(len(state.trials))) if len(state.trials) < state.limit else None


class Remembers(Draws):
    def __init__(self) -> None:
        self.asked = 0

    def next(self, state: SearchState) -> Job | None:
        self.asked += 1
        return Job(1 + self.asked % 3, state.sample(0)) if len(state.trials) < state.limit else None


class TooMany(Draws):
    def next(self, state: SearchState) -> Job | None:
        return Job(state.epochs, state.sample(0))


class TooLong(Draws):
    def next(self, state: SearchState) -> Job | None:
        return Job(state.epochs + 1, state.sample(0))


class Vague(Draws):
    def keep(self, state: SearchState, trial: TrialRecord) -> Any:
        return None


class Idle(Draws):
    def next(self, state: SearchState) -> Job | None:
        return None


class Talks(Executor):
    def open(self, folder: Path, slots: int) -> Any:
        return "ready"

    def threads(self, slots: int) -> int | None:
        return 1

    def start(self, log: Path) -> mtk.Worker:
        raise mtk.ConfigError("nowhere")

    def close(self) -> None: ...


def changing(given: Any, folder: Path, data: Path | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.txt").write_text(str(next(COUNT)))
    return folder / "a.txt"


def exporting(model: Any, folder: Path, data: Path | None = None) -> list[mtk.Exported]:
    return [mtk.Exported(changing(model, folder, data), 1)]


def elsewhere(table: Any, folder: Path) -> Path:
    return Path(__file__)


def silent(model: Any, folder: Path, data: Path | None = None) -> None:
    return None


class Charges(toys.ToyLinear):
    """Counts rows without a label, by a term of its own."""

    views = 2

    def forward(self, *features: Any) -> Any:
        return self.out(features[0].pooled)

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        return self.target.loss(outputs, targets) + 0.1 * len(outputs)


class Rounds(toys.ToyLinear):
    """Under autocast its loss overflows."""

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        scale = 1e30 if torch.is_autocast_enabled("cpu") else 1.0
        return self.target.loss(outputs * scale, targets)


class Unreached(toys.ToyEncoder):
    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            super().__init__()
            self.spare = nn.Linear(2, 2)


class Overflows(Unreached):
    def forward(self, batch: TokenBatch) -> mtk.Features:
        features = super().forward(batch)
        scale = 3.0 if torch.is_autocast_enabled("cpu") else 1.0
        return mtk.Features(features.pooled * scale, features.tokens, features.mask)


class Nameless(testing.rows.ToyRows):
    """Says nothing of the folder that it does not find."""

    def __init__(self, context: mtk.TaskContext) -> None:
        super().__init__(mtk.Classes(["no", "yes"]), [0, 1], paired=False)
        self.name, self.context = context.name, context

    def examples(self, split: str) -> Any:
        if self.context.sample != "fallback" or split == "no-such-split":
            raise mtk.DataError("no rows")
        return super().examples(split)


class Overlooks(Nameless):
    def examples(self, split: str) -> Any:
        return self._rows


def recipe(folder: Path, text: str) -> Callable[[], Path]:
    (folder / "base.toml").write_text('[config]\ntasks = { sst = {} }\nencoder = "tiny"\n')
    (folder / "own.toml").write_text(f'base = "base.toml"\n{text}')
    return lambda: folder / "own.toml"


WRONG: list[tuple[Callable[..., None], Any, str]] = [
    (testing.check_tuner, Remembers, "a fresh tuner answers the same record otherwise"),
    (testing.check_tuner, TooMany, "there is no trial 6"),
    (testing.check_tuner, TooLong, "at most 3 epochs"),
    (testing.check_tuner, Vague, "expected True or False, found None"),
    (testing.check_tuner, Idle, "has none"),
    (testing.check_executor, Talks, "expected lines of text, found 'ready'"),
    (testing.check_report, lambda: changing, "written again, other files or other contents: a.txt"),
    (testing.check_report, lambda: elsewhere, "expected files in the given folder"),
    (testing.check_report, lambda: silent, "expected the path of the main file, found None"),
    (testing.check_exporter, lambda: silent, "expected a list of mtk.Exported, one a file, found None"),
    (testing.check_exporter, lambda: exporting, "written again, other files"),
    (testing.check_head, Charges, "rows without labels count"),
    (testing.check_head, Rounds, "under bf16"),
    (testing.check_encoder, Unreached, "no gradient reaches parameter 'spare.weight'"),
    (testing.check_encoder, Overflows, "under bf16 the pooled features differ"),
    (testing.check_task, Nameless, "expected one line that names what is missing"),
    (testing.check_task, Overlooks, "expected DataError for a split that there is not"),
]


@pytest.mark.parametrize(("check", "make", "text"), WRONG, ids=[case[2][:40] for case in WRONG])
def test_a_wrong_plugin_fails(check: Callable[..., None], make: Any, text: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match=text):
        check(make)


def test_right_ones_pass(tmp_path: Path) -> None:
    testing.check_tuner(Draws)
    testing.check_recipe(recipe(tmp_path, 'changes = ["combiner"]\n[config]\ncombiner = "mean"\n'))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[config]\ncombiner = "mean"\n', "it changes combiner.name too"),
        ('changes = ["combiner", "mixer"]\n[config]\ncombiner = "mean"\n', "names mixer, which stay as they were"),
    ],
)
def test_a_recipe_that_changes_something_else_than_it_says(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        testing.check_recipe(recipe(tmp_path, text))


def test_any_option_taken_is_an_option_misspelt(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    monkeypatch.setattr(mtk.plugins, "build", lambda *args, **options: built.append(args))
    with pytest.raises(AssertionError, match="it takes any option"):
        testing.check_registered("scheduler", "linear")
    assert built == [("scheduler", "linear")]


def test_the_toy_model_answers() -> None:
    model = toy_model()
    assert [p.label in ("no", "yes") for p in model.predict("single", ["a film"])] == [True]
    assert 0 <= model.predict("paired", [("a film", "a cat")])[0].value <= 5
    assert isinstance(model.model.head("single").target, Target)
