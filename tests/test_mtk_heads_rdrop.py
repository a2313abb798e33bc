"""R-Drop on the built-in heads: the loss by hand, off is off, and a whole run with gradients by task."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mtk
from mtk import (
    Classes,
    ConfigError,
    Features,
    Head,
    MultiLabel,
    Number,
    Ordinal,
    PluginError,
    Range,
    Ranking,
    Tags,
    Target,
    session,
)
from mtk.config import make_config
from mtk.device import rng_state, set_rng_state
from mtk.gradients import GradientEngine
from mtk.interfaces import StepInfo
from mtk.plugins import options
from mtk.testing import check_head
from mtk.training import StepDone
from mtk_combiners.pcgrad import PCGrad, pcgrad_weights
from mtk_heads.concat import Concat
from mtk_heads.concat_diff import ConcatDiff, compare
from mtk_heads.cosine import Cosine
from mtk_heads.linear import Linear
from mtk_heads.mlp import MLP
from mtk_heads.ordinal import OrdinalHead
from mtk_heads.tagger import Tagger
from tests.toys import ToyTags

HEADS = [Linear, MLP, Cosine, Concat, ConcatDiff]
NAMES = ["linear", "mlp", "cosine", "concat", "concat-diff", "ordinal", "tagger"]
TARGETS: list[tuple[Target, list[Any]]] = [(Classes(["no", "yes"]), [1, None, 0, 1]), (Range(0, 5), [4.2, None, 0, 1])]
SIZES, MOODS = Ordinal(["small", "medium", "large"]), MultiLabel(["good", "sad", "odd"])
CASES: list[tuple[type[Head], Target, list[Any]]] = [
    *((head, target, labels) for head in HEADS for target, labels in TARGETS),
    *((head, SIZES, [2, None, 0, 1]) for head in (OrdinalHead, Linear, MLP, Concat)),
    *((head, MOODS, [(0, 2), None, (), (1,)]) for head in (Linear, MLP, ConcatDiff)),
    (Linear, Number(), [-0.5, None, 3.0, 0.2]),
]


def views_of(head: type[Head], count: int, rows: int = 4, size: int = 6) -> list[Features]:
    """Random features of `count` views: all texts of the first view, then those of the second."""
    draw = torch.Generator().manual_seed(7)
    texts = count * (2 if head.reads == "bi" else 1)
    mask = torch.ones(rows, 1, dtype=torch.bool)
    return [Features(torch.randn(rows, size, generator=draw), None, mask) for _ in range(texts)]


# ---------------------------------------------------------------------------------------------- the loss


def row_loss(target: Target, label: Any, outputs: Sequence[float]) -> float:
    match target:
        case Range():
            return (outputs[0] - (label - 2.5) / 1.25) ** 2  # of 0 to 5: the middle, and a quarter of the width
        case Number():
            return (outputs[0] - label) ** 2
        case Ordinal():
            return -sum(math.log(coin(x)[0 if label > k else 1]) for k, x in enumerate(outputs))
        case MultiLabel():
            return -sum(math.log(coin(x)[0 if k in label else 1]) for k, x in enumerate(outputs)) / len(outputs)
    return -math.log(softmax(outputs)[int(label)])


def row_apart(target: Target, a: Sequence[float], b: Sequence[float]) -> float:
    """Equation 2; of yes or no, that of each coin, summed over thresholds or averaged over labels, as losses are."""
    match target:
        case Range() | Number():
            return (a[0] - b[0]) ** 2
        case Ordinal() | MultiLabel():
            coins = [0.5 * (kl(coin(x), coin(y)) + kl(coin(y), coin(x))) for x, y in zip(a, b, strict=True)]
            return sum(coins) / (len(coins) if isinstance(target, MultiLabel) else 1)
    return 0.5 * (kl(softmax(a), softmax(b)) + kl(softmax(b), softmax(a)))


def coin(logit: float) -> tuple[float, float]:
    """Yes and no."""
    return 1 / (1 + math.exp(-logit)), 1 / (1 + math.exp(logit))


def softmax(outputs: Sequence[float]) -> list[float]:
    powers = [math.exp(x) for x in outputs]
    return [x / sum(powers) for x in powers]


def kl(p: Sequence[float], q: Sequence[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def slow_loss(target: Target, labels: Sequence[Any], one: Any, two: Any, alpha: float) -> float:
    """Half of the paper's equation 4 over the labelled rows, number by number."""
    total = 0.0
    for label, a, b in zip(labels, one, two, strict=True):
        if label is None:
            continue
        natural = row_loss(target, label, a) + row_loss(target, label, b)  # equation 3
        total += 0.5 * (natural + alpha * row_apart(target, a, b))  # half of equation 4
    return total


@pytest.mark.parametrize("alpha", [0.5, 5.0])
@pytest.mark.parametrize(("head", "target", "labels"), CASES)
def test_the_loss_against_a_slow_reference(head: type[Head], target: Target, labels: list[Any], alpha: float) -> None:
    """Two views of different features stand for two dropout masks. The second row has no label and counts nowhere."""
    torch.manual_seed(0)
    built = head(6, target, rdrop=alpha).eval()
    for name, weights in built.named_parameters():
        if name.endswith("weight"):
            nn.init.normal_(weights)  # far enough from 0 that the views disagree
    views = views_of(head, 2)
    texts = len(views) // 2
    one, two = built(*views[:texts]), built(*views[texts:])
    assert isinstance(one, torch.Tensor) and one.shape == two.shape == (4, target.size)
    targets = target.collate(labels, 1)
    found = built.loss(built(*views), targets).item()
    assert found == pytest.approx(slow_loss(target, labels, one.tolist(), two.tolist(), alpha), rel=1e-5)
    without = slow_loss(target, labels, one.tolist(), two.tolist(), 0.0)
    assert found > without * 1.001
    unlabelled = target.collate([None] * 4, 1)
    assert built.loss(built(*views), unlabelled).item() == 0.0 and unlabelled.count == 0


def test_by_hand() -> None:
    """P = (1/2, 1/2) and Q = (1/4, 3/4): both divergences, and the loss of the second class with alpha 2."""
    target = Classes(["no", "yes"])
    p, q = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(3)]])
    forth = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    back = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert target.divergence(p, q).tolist() == pytest.approx([(forth + back) / 2])
    loss = Linear(2, target, rdrop=2.0).loss((p, q), target.collate([1], 1)).item()
    assert loss == pytest.approx((math.log(2) + math.log(4 / 3)) / 2 + (forth + back) / 2)
    number = Range(0, 5)
    a, b = torch.tensor([[1.0]]), torch.tensor([[-0.5]])
    assert number.divergence(a, b).tolist() == [2.25]
    loss = Linear(2, number, rdrop=2.0).loss((a, b), number.collate([2.5], 1)).item()
    assert loss == pytest.approx((1 + 0.25) / 2 + 2.25)


def test_tags_count_token_by_token() -> None:
    """Of two rows with three places, what has a label counts: no padding, no rest of a word, no word without a tag."""
    head = Tagger(2, Tags(["noun", "verb"]), rdrop=2.0)
    rows = [head.target.align((1, 0), [None, 0, 0]), head.target.align(None, [0, 1])]  # the second word was cut off
    targets = head.target.collate(rows, 3)
    assert targets.mask.tolist() == [[False, True, False], [False] * 3]
    p, q = torch.full((2, 3, 2), 50.0), torch.full((2, 3, 2), -50.0)
    p[..., 0], q[..., 0] = 0, 0  # far apart but where the tag is
    p[0, 1], q[0, 1] = torch.tensor([0.0, 0.0]), torch.tensor([0.0, math.log(3)])
    apart = 0.5 * (kl([0.5, 0.5], [0.25, 0.75]) + kl([0.25, 0.75], [0.5, 0.5]))
    assert head.loss((p, q), targets).item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2 + apart)
    assert head.target.divergence(p, q).shape == (2, 3)
    nothing = head.target.collate([rows[1]] * 2, 3)
    assert head.loss((p, q), nothing).item() == 0.0


@pytest.mark.parametrize(("head", "target"), [(head, target) for head, target, _ in CASES])
def test_one_view_has_the_targets_own_loss(head: type[Head], target: Target) -> None:
    """Where both views agree, R-Drop adds nothing."""
    built = head(6, target, rdrop=3.0).eval()
    once = views_of(head, 1)
    labels = next(labels for _, one, labels in CASES if one is target)
    targets = target.collate(labels, 1)
    twice = built.loss(built(*once, *once), targets)
    torch.testing.assert_close(twice, target.loss(built(*once), targets))


def test_both_views_are_trained_by_the_divergence() -> None:
    """No gradient is stopped: what the divergence adds to the loss moves both views' outputs, towards each other."""
    head = Linear(2, Range(0, 5), rdrop=2.0)
    a, b = torch.tensor([[1.0]], requires_grad=True), torch.tensor([[-0.5]], requires_grad=True)
    head.loss((a, b), head.target.collate([2.5], 1)).backward()  # (a^2 + b^2) / 2 + (a - b)^2
    assert a.grad is not None and b.grad is not None
    assert (a.grad.item(), b.grad.item()) == (1.0 + 3.0, -0.5 - 3.0)


@pytest.mark.parametrize("head", HEADS)
def test_dropout_is_drawn_apart_for_each_view(head: type[Head]) -> None:
    """The same features twice, as the core gives them with no dropout in the encoder."""
    torch.manual_seed(0)
    built = head(6, Range(0, 5), rdrop=1.0, dropout=0.5)
    once = views_of(head, 1)
    one, two = built(*once, *once)
    assert not torch.equal(one, two)
    one, two = built.eval()(*once, *once)
    assert torch.equal(one, two)


# ---------------------------------------------------------------------------------------------- off, and evaluation


def plain(head: type[Head], size: int, target: Target) -> tuple[list[nn.Linear], Callable[..., torch.Tensor]]:
    """What a head was before it knew R-Drop: its layers, made in their order, and one view's outputs."""
    drop = nn.Dropout(0.1)

    def layer(inputs: int, outputs: int) -> nn.Linear:
        made = nn.Linear(inputs, outputs)
        nn.init.normal_(made.weight, std=0.02)
        nn.init.zeros_(made.bias)
        return made

    if head is Cosine:

        def scaled(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            score = 4.0 * nn.functional.cosine_similarity(drop(a), drop(b), dim=-1) - 2.0
            return score[:, None] if target.size == 1 else torch.stack((-score / 2, score / 2), -1)

        return [], scaled
    if head is MLP:
        inner, last = layer(size, size), layer(size, target.size)
        return [inner, last], lambda a: last(drop(nn.functional.gelu(inner(a))))
    width = {Linear: 1, Concat: 2, ConcatDiff: 4}[head]
    out = layer(width * size, target.size)
    join = {1: lambda a: a, 2: lambda a, b: torch.cat((a, b), -1), 4: compare}[width]
    return [out], lambda *texts: out(drop(join(*texts)))


@pytest.mark.parametrize(("target", "labels"), TARGETS)
@pytest.mark.parametrize("head", HEADS)
def test_off_is_the_head_without_it(head: type[Head], target: Target, labels: list[Any]) -> None:
    """The same weights, dropout, outputs and loss from one seed, bit for bit."""
    torch.manual_seed(5)
    layers, outputs = plain(head, 6, target)
    torch.manual_seed(5)
    built = head(6, target)
    weights = [p for layer in layers for p in (layer.weight, layer.bias)]
    assert all(torch.equal(a, b) for a, b in zip(weights, built.parameters(), strict=head is not Cosine))
    views = views_of(head, 1)
    torch.manual_seed(6)
    wanted = outputs(*(view.pooled for view in views))
    torch.manual_seed(6)
    found = built(*views)
    assert built.views == 1 and torch.equal(found, wanted)
    targets = target.collate(labels, 1)
    assert torch.equal(built.loss(found, targets), target.loss(wanted, targets))


@pytest.mark.parametrize(("target", "labels"), TARGETS)
@pytest.mark.parametrize("head", HEADS)
def test_one_view_is_evaluated_as_without(head: type[Head], target: Target, labels: list[Any]) -> None:
    torch.manual_seed(5)
    off = head(6, target).eval()
    torch.manual_seed(5)
    on = head(6, target, rdrop=1.0).eval()
    views, targets = views_of(head, 1), target.collate(labels, 1)
    assert (on.views, off.views) == (2, 1)
    assert torch.equal(on(*views), off(*views))
    assert on.predict(on(*views), targets) == off.predict(off(*views), targets)
    assert torch.equal(on.loss(on(*views), targets), off.loss(off(*views), targets))


@pytest.mark.parametrize("head", [*HEADS, OrdinalHead, Tagger])
def test_conformance_with_two_views(head: type[Head]) -> None:
    check_head(partial(head, rdrop=0.7))


@pytest.mark.parametrize("name", NAMES)
def test_the_first_option_is_the_one_it_was(name: str) -> None:
    """`linear:0.3` goes on to mean the dropout."""
    known = [option.name for option in options("head", name)]
    assert known[0] == ("hidden" if name == "mlp" else "dropout") and known[-1] == "rdrop"


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("rdrop", [-0.1, math.nan, math.inf])
def test_refuses_a_wrong_alpha(head: type[Head], rdrop: float) -> None:
    with pytest.raises(ConfigError, match=rf"^rdrop: expected a number of at least 0 .* found {rdrop}$"):
        head(4, Range(0, 5), rdrop=rdrop)


@pytest.mark.parametrize("head", [Linear, MLP, Concat, ConcatDiff])
def test_refuses_a_target_without_a_divergence(head: type[Head]) -> None:
    assert head(4, ToyTags()).views == 1
    with pytest.raises(
        ConfigError,
        match=r"^rdrop: expected a target with a divergence, found ToyTags, which has none; leave rdrop out$",
    ):
        head(4, ToyTags(), rdrop=1.0)


def test_serves_a_strangers_target_that_has_one() -> None:
    """Told by the method alone; one that would be broadcast, [B, 1] against [B], is refused."""

    class Absolute(ToyTags):
        def divergence(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return (first - second).abs().sum(-1)

    class Column(Absolute):
        def divergence(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return super().divergence(first, second).unsqueeze(-1)

    views = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)
    for target, right in ((Absolute(), True), (Column(), False)):
        head = Linear(4, target, rdrop=2.0)
        targets = target.collate([[1, 2]], 2)
        if right:
            assert head.loss(views, targets).item() == pytest.approx(2 * math.log(3) + 6)
        else:
            with pytest.raises(
                PluginError,
                match=r"^Column\.divergence: expected a number an item, of shape \[1, 2\], found \[1, 2, 1\]",
            ):
                head.loss(views, targets)


def test_pairs_that_belong_together_have_no_r_drop() -> None:
    with pytest.raises(PluginError, match=r"^head 'contrastive' has no option 'rdrop'"):
        mtk.build("head", "contrastive", 4, Ranking(), rdrop="1")


def test_refused_by_name_in_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"^head 'linear': rdrop: expected a number .* found -1.0 \(options: rdrop"
    ) as e:
        mtk.build("head", "linear", 4, Range(0, 5), rdrop="-1")
    assert "\n" not in str(e.value)


# ---------------------------------------------------------------------------------------------- whole runs

TREE: dict[str, Any] = {
    "tasks": {
        "sst": {"head": "linear:rdrop=1"},
        "quora": {"head": "concat-diff:rdrop=2"},
        "sts": {"head": "mlp:rdrop=0.5"},
        "pairs": {"kind": "sts", "head": "cosine:rdrop=0.5"},
        "plain": {"kind": "quora", "head": "concat"},
    },
    "encoder": {"name": "tiny", "dropout": 0.2},
    "combiner": "pcgrad",
    "data": {"max_train_rows": 40, "sample": "always"},
    "optim": {"lr": 0.01, "max_norm": 0.0},
    "train": {"batch_size": 6, "max_steps": 3, "precision": "fp32", "device": "cpu", "threads": 1, "seed": 2},
}


def test_gradients_by_task_equal_a_plain_backward_a_task() -> None:
    """The first step of that run, with all its dropout: the fused backward by rows against autograd, task by task."""
    training = session.start(make_config(TREE), None).training
    parts = training.parts
    assert training.slow_parameters == []  # the check before training found nothing that differs
    step = parts.plan.steps(parts.train, 0)[0]
    (batch,) = step.micro_batches(parts.train, parts.model.encoder.tokenizer.pad_id)
    copies = {name: part.copies for name, part in batch.slices.items()}
    assert copies == {"sst": 2, "quora": 4, "sts": 2, "pairs": 4, "plain": 2}
    shared, model = parts.model.shared_parameters(), parts.model.train()
    rng = rng_state("cpu")
    wanted = []
    losses = model.losses(batch, model(batch))
    for loss in losses.values():
        found = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
        wanted.append([torch.zeros_like(p) if g is None else g for p, g in zip(shared, found, strict=True)])
    flat = torch.stack([torch.cat([g.flatten() for g in grads]) for grads in wanted]).double()  # [T, P]
    weights = pcgrad_weights(flat @ flat.T, torch.Generator().manual_seed(0))
    set_rng_state("cpu", rng)
    engine = GradientEngine(shared, PCGrad(), model.head_parameters())
    info = StepInfo(tuple(losses), 0, 0, torch.Generator().manual_seed(0))
    engine.start(info)
    with engine.watch(batch.ranges):
        again = model.losses(batch, model(batch))
    assert all(torch.equal(again[name], loss) for name, loss in losses.items())
    engine.backward(again)
    report = engine.finish()
    torch.testing.assert_close(report.gram, flat @ flat.T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(report.weights, weights, rtol=1e-3, atol=1e-4)
    whole = (report.weights @ flat).float().split([p.numel() for p in shared])
    for p, right in zip(shared, whole, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad.flatten(), right, rtol=1e-3, atol=1e-4)


def test_a_run_trains_saves_and_predicts(tmp_path: Path) -> None:
    """Three steps with pcgrad, told as on a command line; the saved run knows rdrop and predicts with one view."""
    tasks = ["sst", "sts", "quora"]
    heads = {"sst": "linear:rdrop=1", "sts": "cosine:rdrop=2", "quora": "mlp:rdrop=0.5"}
    steps: list[StepDone] = []

    def watch(event: object) -> None:
        if isinstance(event, StepDone):
            steps.append(event)

    run = mtk.train(
        tasks, out=tmp_path / "run", quiet=True, watch=watch, sample=True, encoder="tiny", head=heads,
        combiner="pcgrad", max_steps=3, max_train_rows=48, device="cpu", precision="fp32", threads=1,
    )  # fmt: skip
    assert len(steps) == 3 and all(math.isfinite(x) for step in steps for x in step.losses.values())
    assert all(step.report.conflicts is not None for step in steps)
    chosen = run.config.tasks["sts"].head
    assert chosen is not None and float(chosen.options["rdrop"]) == 2
    model = mtk.load(run, device="cpu", threads=1)
    assert model.model.head("sst").views == 2
    assert model.evaluate().aggregate == pytest.approx(run.scores["aggregate"], abs=1e-6)
    assert len(model.predict("sst", ["good", "a long and boring film"])) == 2
    assert 0 <= model.predict("sts", [("a cat", "a dog")])[0].value <= 5
    one, two = (model.predict("quora", [("why", "how")]) for _ in range(2))
    assert one == two  # one view, no dropout


def test_alpha_works_against_divergence() -> None:
    """Trained on the same draws, a larger alpha leaves the views closer together."""

    def apart(alpha: float) -> float:
        torch.manual_seed(0)
        target = Classes(["no", "yes"])
        head = Linear(16, target, dropout=0.5, rdrop=alpha)
        x = Features(torch.randn(64, 16), None, torch.ones(64, 1, dtype=torch.bool))
        targets = target.collate([int(value) for value in x.pooled[:, 0] > 0], 1)
        optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
        for _ in range(100):
            optimizer.zero_grad()
            (head.loss(head(x, x), targets) / targets.count).backward()
            optimizer.step()
        with torch.no_grad():
            return float(torch.stack([target.divergence(*head(x, x)).mean() for _ in range(20)]).mean())

    assert apart(8.0) < apart(1e-6) / 2
