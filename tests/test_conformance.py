"""The conformance checks over everything registered, and toys that break them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mtk
from mtk import Features, GradientCombiner, Mixer, Progress, Scheduler, StepInfo, Target, testing
from mtk.plugins import KINDS, build, options, registered
from mtk_files import KINDS as OF_FILES
from tests import toys

EVERYTHING = [(kind, name) for kind in KINDS for name in registered(kind)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small BERT in the Hugging Face layout, for encoders that need one."""
    folder = tmp_path_factory.mktemp("tiny")
    build("encoder", "tiny").save(folder)
    return folder


def table(folder: Path, name: str) -> dict[str, Any]:
    """The options of a task on rows of one's own, with a file of them."""
    tags, file = "A B A", folder / f"{name}.csv"
    rows = [f"text number {i},other text {i},{tags if name == 'tags' else i % 4 + 1}\n" for i in range(40)]
    file.write_text("text,pair,label\n" + "".join(rows))
    return {"data": str(file), **({"pair": "pair"} if name == "ranking" else {})}


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_registered(kind: str, name: str, source: Path) -> None:
    if kind == "task" and name in OF_FILES:
        return testing.check_registered(kind, name, **table(source, name))
    required = [option.name for option in options(kind, name) if option.required]
    given = {"source": str(source)} if kind == "encoder" and required == ["source"] else {}
    if required and not given:
        pytest.skip(f"{kind} '{name}' needs the options {', '.join(required)}")
    if (kind, name) == ("executor", "ray"):
        pytest.skip("it starts a cluster: its own tests do so once")
    try:
        if kind in ("encoder", "report", "tuner", "executor"):
            build(kind, name, **given)
    except mtk.CheckpointError as error:
        pytest.skip(f"not on this machine: {error}")
    except mtk.PluginError as error:
        if "pip install" not in str(error):
            raise
        pytest.skip(f"not installed: {error}")
    testing.check_registered(kind, name, **given)


# ---------------------------------------------------------------------------------------------- the checks bite


class Good(GradientCombiner):
    needs = "gradients"

    def combine(self, chunk: Tensor, info: StepInfo) -> Tensor:
        return chunk.sum(0)


class NotFinite(GradientCombiner):
    needs = "gram"

    def gradient_weights(self, gram: Tensor, losses: Tensor, info: StepInfo) -> Tensor:
        return 1 / gram.diagonal()


class GlobalRandomness(GradientCombiner):
    needs = "losses"

    def loss_weights(self, losses: Tensor, info: StepInfo) -> Tensor:
        return torch.rand(len(losses))


class Forgetful(GradientCombiner):
    needs = "nothing"
    calls = 0

    def loss_weights(self, losses: Tensor, info: StepInfo) -> Tensor:
        self.calls += 1
        return torch.full_like(losses, self.calls)


class NotElementwise(Good):
    def combine(self, chunk: Tensor, info: StepInfo) -> Tensor:
        return chunk.sum(0) * chunk.norm()


class Changing(Good):
    def combine(self, chunk: Tensor, info: StepInfo) -> Tensor:
        chunk *= 2
        return chunk.sum(0)


class Negative(Scheduler):
    def factor(self, progress: Progress) -> float:
        return 0.5 - progress.fraction


class Frozen(Scheduler):
    def factor(self, progress: Progress) -> float:
        return progress.fraction


class Fractions(Mixer):
    def rows(self, sizes: Mapping[str, int], epoch: int, epochs: int, generator: torch.Generator) -> dict[str, Any]:
        return {name: size / 2 for name, size in sizes.items()}


class MeanLoss(toys.ToyLinear):
    def loss(self, outputs: Any, targets: Any) -> Tensor:
        return self.target.loss(outputs, targets) / targets.count


class ReadsPadding(toys.ToyLinear):
    needs_tokens = True

    def forward(self, *features: Features) -> Tensor:
        assert features[0].tokens is not None
        return self.out(features[0].tokens.mean(1))


class DeadParameter(toys.ToyLinear):
    def __init__(self, hidden_size: int, target: Target) -> None:
        super().__init__(hidden_size, target)
        self.unused = torch.nn.Linear(2, 2)


class RowsMeet(toys.ToyEncoder):
    def forward(self, batch: Any) -> Features:
        features = super().forward(batch)
        return Features(features.pooled - features.pooled.mean(0), features.tokens, features.mask)


def rows_meet() -> RowsMeet:
    torch.manual_seed(0)
    return RowsMeet()


class SameIds(testing.rows.ToyRows):
    def examples(self, split: str) -> Sequence[mtk.Example]:
        return [mtk.Example("same", "text", None, 0)] * 2


def same_ids(context: mtk.TaskContext) -> SameIds:
    task = SameIds(mtk.Classes(["no", "yes"]), [0], paired=False)
    task.name = context.name
    return task


class Growing:
    def __call__(self, task: Any, rows: Any, generator: Any) -> Any:
        rows.append(mtk.Example("new", "text", "pair" if task.paired else None, 1))
        return rows


WRONG: list[tuple[Callable[..., None], Any, str]] = [
    (testing.check_combiner, NotFinite, "finite"),
    (testing.check_combiner, GlobalRandomness, "draw from info.generator"),
    (testing.check_combiner, Forgetful, "after load_state_dict"),
    (testing.check_combiner, NotElementwise, "chunks"),
    (testing.check_combiner, Changing, "were changed"),
    (testing.check_scheduler, Negative, "factor >= 0"),
    (testing.check_scheduler, Frozen, "never moves"),
    (testing.check_mixer, Fractions, "whole number"),
    (testing.check_head, MeanLoss, "sum over rows"),
    (testing.check_head, ReadsPadding, "the padding"),
    (testing.check_head, DeadParameter, "unused.weight"),
    (testing.check_encoder, rows_meet, "by itself differs"),
    (testing.check_task, same_ids, "'same' comes twice"),
    (testing.check_augmentation, Growing, "were changed"),
]


@pytest.mark.parametrize(("check", "make", "text"), WRONG, ids=[case[2] for case in WRONG])
def test_a_wrong_plugin_fails(check: Callable[..., None], make: Any, text: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match=text):
        check(make)


def test_right_toys_pass() -> None:
    testing.check_combiner(Good)
    testing.check_combiner(toys.ToyFAMO)
    testing.check_head(toys.ToyLinear)
    testing.check_head(toys.ToyRDrop, [(mtk.Classes(["a", "b", "c"]), [2, 0, 1])])
