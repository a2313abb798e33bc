"""The engine against the plain reference step of `toys`: every kind of combiner, accumulation, absences, clipping."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mtk.errors import MTKError, PluginError
from mtk.gradients import GradientEngine, combine, gramian
from mtk.interfaces import Example, GradientCombiner, StepInfo
from mtk.targets import Classes, Range
from mtk.testing import check_combiner
from mtk_combiners.mean import Mean
from mtk_combiners.pcgrad import PCGrad, pcgrad_weights
from mtk_combiners.sum import Sum
from tests.toys import (
    ToyCosine,
    ToyEncoder,
    ToyLinear,
    ToyTagger,
    ToyTags,
    collate,
    reference_gradients,
    reference_losses,
)

torch.set_num_threads(1)
TEXTS = ["a fine day", "rain", "two dogs run over there", "the end of it", "yes indeed", "why not now"]
NAMES = ("cross", "bi", "tags")
ALL = [(NAMES, 0, 6)]
PARTS = [(NAMES, 0, 1), (("cross", "tags"), 1, 4), (("bi",), 1, 4), (NAMES, 4, 6)]


class Softmax(GradientCombiner):
    """Loss weights that read the losses, as FAMO's do."""

    needs = "losses"

    def loss_weights(self, losses, info):
        return losses.softmax(0) * len(info.tasks)


class Median(GradientCombiner):
    """Element-wise, and no weighted sum of the gradients."""

    needs = "gradients"

    def combine(self, chunk, info):
        assert chunk.shape[0] == len(info.tasks)
        return chunk.median(0).values


class Weighted(GradientCombiner):
    """Given gradient weights, whatever they are."""

    needs = "gram"

    def __init__(self, *weights):
        self.weights, self.calls = torch.tensor(weights, dtype=torch.float64), 0

    def gradient_weights(self, gram, losses, info):
        self.calls += 1
        self.seen = gram, losses
        return self.weights


class Scaled(Weighted):
    """Loss weights that a Gramian combiner knows before the step, as GradNorm's."""

    def loss_weights(self, losses, info):
        assert losses.isnan().all()
        return torch.tensor([2.0, 0.5, 3.0])[: len(info.tasks)]


class World:
    """A toy encoder and three heads; `step` runs the engine, `expect` the plain reference."""

    def __init__(self, dtype=torch.float64, seed=0):
        torch.manual_seed(seed)
        labels = {
            "cross": (ToyLinear, Classes(["no", "yes"]), [0, 1, None, 1, 0, 1]),
            "bi": (ToyCosine, Range(0, 5), [0.5, 4.2, 3, None, 5, 0]),
            "tags": (ToyTagger, ToyTags(), [[i % 3] * len(text.split()) for i, text in enumerate(TEXTS)]),
        }
        self.encoder = ToyEncoder().to(dtype)
        self.heads = {name: head(8, target).to(dtype) for name, (head, target, _) in labels.items()}
        pairs = TEXTS[1:] + TEXTS[:1]
        self.rows = {
            name: [
                Example(str(i), t, p if name == "bi" else None, y)
                for i, (t, p, y) in enumerate(zip(TEXTS, pairs, ys, strict=True))
            ]
            for name, (_, _, ys) in labels.items()
        }
        self.shared = list(self.encoder.parameters())
        self.owned = {name: list(head.parameters()) for name, head in self.heads.items()}

    def micro(self, names, start, stop):
        return {
            n: collate(self.encoder, self.heads[n].target, self.heads[n], self.rows[n][start:stop], n == "bi")
            for n in names
        }

    def run(self, combiner, plan, max_norm=None, owned=True):
        """One step of the engine, as the training loop makes it."""
        micros = [self.micro(*part) for part in plan]
        counts = {}
        for micro in micros:
            for name, part in micro.items():
                counts[name] = counts.get(name, 0) + part.targets.count
        info = StepInfo(tuple(n for n in NAMES if n in counts), 0, 0, torch.Generator().manual_seed(5))
        engine = GradientEngine(self.shared, combiner, self.owned if owned else None)
        engine.start(info, len(micros))
        for micro in micros:
            losses = reference_losses(self.encoder, self.heads, [micro])  # divided by the micro-batch's count
            engine.backward({n: loss * micro[n].targets.count / counts[n] for n, loss in losses.items()})
        return engine.finish(max_norm)

    def losses(self, plan):
        found = reference_losses(self.encoder, self.heads, [self.micro(*part) for part in plan])
        return {n: found[n] for n in NAMES if n in found}

    def expect(self, plan):
        """The Jacobian [T, P], and each head's plain gradients."""
        losses = self.losses(plan)
        jacobian = torch.stack(list(reference_gradients(losses, self.shared).values()))
        heads = {n: torch.autograd.grad(losses[n], self.owned[n], allow_unused=True) for n in losses}
        return jacobian, heads

    def flat(self):
        return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in self.shared])

    def head_gradients(self):
        return {n: [p.grad for p in parameters] for n, parameters in self.owned.items()}


def check_heads(world, expected, weights=None):
    for place, (name, gradients) in enumerate(expected.items()):
        weight = 1.0 if weights is None else weights[place]
        for found, plain in zip(world.head_gradients()[name], gradients, strict=True):
            assert (found is None) == (plain is None)
            if plain is not None:
                torch.testing.assert_close(found, weight * plain)


# ------------------------------------------------------------------------------------------ against the reference


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("plan", [ALL, PARTS], ids=["whole", "accumulated"])
@pytest.mark.parametrize("combiner", [Sum(), Mean(), Softmax(), PCGrad(), Median()], ids=lambda c: type(c).__name__)
def test_every_kind_of_combiner_equals_the_reference(combiner, plan, dtype):
    world = World(dtype)
    jacobian, heads = world.expect(ALL)  # that accumulation equals the whole step is part of the claim
    report = world.run(combiner, plan)
    gram = jacobian.double() @ jacobian.double().T
    if combiner.needs == "gradients":
        expected, weights = jacobian.median(0).values, torch.ones(3)
    elif combiner.needs == "gram":
        weights = pcgrad_weights(gram, torch.Generator().manual_seed(5))
        expected = weights.to(dtype) @ jacobian
    else:
        info = StepInfo(NAMES, 0, 0, torch.Generator())
        weights = combiner.loss_weights(torch.stack(list(world.losses(ALL).values())).detach(), info)
        expected = weights @ jacobian
    torch.testing.assert_close(world.flat(), expected)
    check_heads(world, heads, weights if combiner.needs in ("nothing", "losses") else None)
    assert report.tasks == NAMES and report.weights.dtype == torch.float64
    torch.testing.assert_close(report.weights, weights.double(), rtol=1e-5, atol=1e-6)
    if combiner.needs == "gram":
        torch.testing.assert_close(report.gram, gram, rtol=1e-5, atol=1e-6)
        assert report.conflicts == int((gram.triu(1) < 0).sum())
    else:
        assert report.gram is None and report.conflicts is None


@pytest.mark.parametrize("max_norm", [None, 0.05, 1e9])
@pytest.mark.parametrize("plan", [ALL, PARTS], ids=["whole", "accumulated"])
def test_loss_weights_of_a_gramian_combiner_scale_heads_and_what_it_sees(plan, max_norm):
    world, combiner = World(), Scaled(1.0, -2.0, 0.5)
    jacobian, heads = world.expect(ALL)
    scales = torch.tensor([2.0, 0.5, 3.0], dtype=torch.float64)
    scaled = scales.unsqueeze(1) * jacobian
    parts = [
        combiner.weights @ scaled,
        *(s * g.flatten() for s, gs in zip(scales, heads.values(), strict=True) for g in gs if g is not None),
    ]
    norm = torch.cat(parts).norm()
    factor = 1.0 if max_norm is None else min(1.0, float(max_norm / norm))
    report = world.run(combiner, plan, max_norm)
    torch.testing.assert_close(report.gram, jacobian @ jacobian.T)
    torch.testing.assert_close(combiner.seen[0], scaled @ scaled.T)
    torch.testing.assert_close(combiner.seen[1], torch.stack(list(world.losses(ALL).values())).detach())
    torch.testing.assert_close(report.weights, scales * combiner.weights)
    torch.testing.assert_close(world.flat(), factor * combiner.weights @ scaled, rtol=1e-4, atol=1e-8)
    for scale, (name, plain) in zip(scales, heads.items(), strict=True):
        for found, g in zip(world.head_gradients()[name], plain, strict=True):
            if g is not None:
                torch.testing.assert_close(found, factor * scale * g, rtol=1e-4, atol=1e-8)
    if max_norm is not None:
        assert report.norm == pytest.approx(float(norm))


def test_loss_weights_of_a_gramian_combiner_scale_the_heads_of_a_frozen_encoder():
    world, combiner = World(), Scaled(1.0, 1.0, 1.0)
    _, heads = world.expect(ALL)
    world.encoder.requires_grad_(False)
    report = world.run(combiner, PARTS)
    check_heads(world, heads, [2.0, 0.5, 3.0])
    assert combiner.calls == 0 and report.weights.tolist() == [2.0, 0.5, 3.0]


def test_a_gramian_combiner_without_loss_weights_is_not_asked_for_them():
    engine = GradientEngine([nn.Parameter(torch.ones(2))], PCGrad())
    engine.start(StepInfo(("a",), 0, 0, torch.Generator()))
    assert engine._scales is None


def test_pcgrad_has_something_to_do_here():
    assert World().run(PCGrad(), ALL).conflicts


@pytest.mark.parametrize("combiner", [Sum(), PCGrad(), Median()], ids=lambda c: type(c).__name__)
def test_absent_tasks(combiner):
    world = World()
    plan = [(("cross",), 0, 2), (("tags",), 0, 4)]
    jacobian, heads = world.expect(plan)
    report = world.run(combiner, plan)
    assert report.tasks == ("cross", "tags")
    assert all(g is None for g in world.head_gradients()["bi"])
    check_heads(world, heads)
    if combiner.needs == "nothing":
        torch.testing.assert_close(world.flat(), jacobian.sum(0))


@pytest.mark.parametrize(
    ("needs", "method"),
    [
        ("nothing", "loss_weights"),
        ("losses", "loss_weights"),
        ("gram", "gradient_weights"),
        ("gradients", "combine"),
    ],
)
def test_a_combiner_without_the_method_that_its_needs_ask_for(needs, method):
    def add(self, losses, info):
        return torch.ones_like(losses)

    other = "loss_weights" if needs in ("gram", "gradients") else "gradient_weights"  # allowed beside it, not in place
    odd = type("Odd", (GradientCombiner,), {"needs": needs, other: add, f"{method}s": add})()
    text = f"Odd: with needs = '{needs}' expected a method {method} of its own, found {method}s$"
    with pytest.raises(MTKError, match=text):
        GradientEngine([], odd)
    with pytest.raises(AssertionError, match=text):
        check_combiner(lambda: odd)
    setattr(type(odd), method, add)
    GradientEngine([], odd)


@pytest.mark.parametrize("needs", ["nothing", "losses", "gram", "gradients"])
def test_a_task_whose_rows_have_no_label_counts_as_zero(needs):
    world = World()
    losses = world.losses([(("cross", "tags"), 0, 6)])
    expected = reference_gradients({"tags": losses["tags"]}, world.shared)["tags"]
    losses["cross"] = torch.zeros((), dtype=torch.float64)  # no graph
    methods = {name: getattr(GradientCombiner, name) for name in ("loss_weights", "gradient_weights", "combine")}
    adds = {name: lambda self, *a, default=default: default(self, *a) for name, default in methods.items()}
    combiner = type("Add", (GradientCombiner,), {"needs": needs, **adds})()
    report = combine(losses, world.shared, combiner)
    torch.testing.assert_close(world.flat(), expected)
    if needs == "gram":
        assert report.gram[0].tolist() == [0, 0]
    silent = combine({"a": torch.zeros(()), "b": torch.zeros(())}, [nn.Parameter(torch.ones(2))], combiner)
    assert silent.weights.tolist() == [1, 1]


def test_one_task_costs_one_backward():
    class Counting(torch.autograd.Function):
        calls = 0

        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            Counting.calls += 1
            return gradient

    p = nn.Parameter(torch.ones(3))
    combine({"only": Counting.apply(p).square().sum()}, [p], PCGrad())
    assert Counting.calls == 1 and p.grad.tolist() == [2, 2, 2]
    combine([Counting.apply(p).sum(), Counting.apply(p).square().sum()], [p], Softmax())
    assert Counting.calls == 3  # loss weights: one backward through each


@pytest.mark.parametrize("plan", [ALL, PARTS], ids=["whole", "accumulated"])
@pytest.mark.parametrize(
    "make",
    [Sum, Softmax, PCGrad, lambda: Weighted(1, 1, 1), Median],
    ids=["sum", "losses", "pcgrad", "given", "median"],
)
def test_a_frozen_encoder_leaves_the_heads_trained(make, plan):
    world, combiner = World(), make()
    _, heads = world.expect(ALL)
    info = StepInfo(NAMES, 0, 0, torch.Generator())
    weights = combiner.loss_weights(torch.stack(list(world.losses(ALL).values())).detach(), info)
    world.encoder.requires_grad_(False)
    report = world.run(combiner, plan, max_norm=1e9)
    check_heads(world, heads, weights if combiner.needs in ("nothing", "losses") else None)
    assert all(p.grad is None for p in world.shared)
    if combiner.needs == "gram":
        assert report.gram.abs().sum() == 0 and report.conflicts == 0
        assert getattr(combiner, "calls", 0) == 0  # its state must not learn from zeros
    world.encoder.requires_grad_(True)
    world.run(combiner, plan)
    assert world.flat().abs().sum() > 0


@pytest.mark.parametrize("make", [Sum, Softmax, PCGrad, Median])
def test_the_graph_is_freed(make):
    world = World()
    losses = world.losses(ALL)
    combine(losses, world.shared, make())
    with pytest.raises(RuntimeError, match="second time"):
        sum(losses.values()).backward()


# ------------------------------------------------------------------------------------------ clipping


@pytest.mark.parametrize("plan", [ALL, PARTS], ids=["whole", "accumulated"])
@pytest.mark.parametrize("max_norm", [0.05, 100.0])
@pytest.mark.parametrize("combiner", [Sum(), Softmax(), PCGrad(), Median()], ids=lambda c: type(c).__name__)
def test_clipping_equals_torch(combiner, max_norm, plan):
    plain, clipped = World(), World()
    plain.run(combiner, plan)
    everything = [*plain.shared, *(p for part in plain.owned.values() for p in part)]
    norm = nn.utils.clip_grad_norm_(everything, max_norm)
    report = clipped.run(combiner, plan, max_norm)
    torch.testing.assert_close(torch.as_tensor(report.norm, dtype=torch.float64), norm)
    torch.testing.assert_close(clipped.flat(), plain.flat())
    check_heads(clipped, {n: g for n, g in plain.head_gradients().items()})


def test_the_norm_of_gradients_that_cancel_is_exact():
    p = nn.Parameter(torch.zeros(1000))
    g = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    report = combine([(p * g).sum(), -(p * (g + 1e-4)).sum()], [p], Weighted(1, 1), max_norm=1.0)
    assert report.norm == pytest.approx(p.grad.double().norm().item(), rel=1e-4)


# ------------------------------------------------------------------------------------------ parameters of all kinds


def test_unused_tied_and_frozen_parameters():
    used, unused, half, frozen = (nn.Parameter(torch.ones(2)) for _ in range(4))
    frozen.requires_grad_(False)
    for combiner in (Sum(), Weighted(2, 3), Median()):
        for p in (used, unused, half):
            p.grad = None
        losses = [(used * frozen).sum(), (used * half).sum()]
        combine(losses, [used, unused, used, half, frozen, half], combiner)
        assert unused.grad is None and frozen.grad is None
        if isinstance(combiner, Weighted):
            assert used.grad.tolist() == [5, 5] and half.grad.tolist() == [3, 3]
            assert combiner.seen[0].tolist() == [[2, 2], [2, 4]]


def test_parameters_whose_gradients_share_memory():
    a, b, head = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(4, 1))
    both = a.view(-1) + b.view(-1) + head.view(-1)
    engine = GradientEngine([a, b], Weighted(3.0), {"task": [head]})
    engine.start(StepInfo(("task",), 0, 0, torch.Generator()))
    engine.backward({"task": (both * torch.arange(4.0)).sum()})
    engine.finish()
    assert a.grad.tolist() == b.grad.flatten().tolist() == [0, 3, 6, 9]
    assert head.grad.flatten().tolist() == [0, 1, 2, 3]


def test_a_sparse_embedding_and_channels_last():
    words = nn.Embedding(7, 3, sparse=True)
    conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 3, 3)
    for combiner in (Weighted(1, 1), Median()):
        words.weight.grad = conv.weight.grad = None
        losses = {"a": words(torch.tensor([1, 1, 4])).sum() + conv(x).sum(), "b": conv(x).square().sum()}
        whole = torch.autograd.grad(losses["b"], conv.weight, retain_graph=True)[0]
        whole = whole + torch.autograd.grad(losses["a"], conv.weight, retain_graph=True)[0]
        combine(losses, [words.weight, conv.weight], combiner)
        if isinstance(combiner, Weighted):
            assert words.weight.grad.sum(1).tolist() == [0, 6, 0, 0, 3, 0, 0]
            torch.testing.assert_close(conv.weight.grad, whole)


def test_half_precision_and_autocast():
    torch.manual_seed(0)
    body, heads = nn.Linear(6, 6), [nn.Linear(6, 1) for _ in range(3)]
    x = torch.randn(8, 6)
    with torch.autocast("cpu", torch.bfloat16):
        losses = [(head(body(x).tanh()).float() - t).square().mean() for t, head in enumerate(heads)]
        jacobian = torch.stack(list(reference_gradients(dict(enumerate(losses)), list(body.parameters())).values()))
        report = combine(losses, body.parameters(), PCGrad())  # inside autocast on purpose
    assert body.weight.grad.dtype == torch.float32
    torch.testing.assert_close(report.gram, jacobian.double() @ jacobian.double().T)
    p = nn.Parameter(torch.ones(5000, dtype=torch.bfloat16))
    report = combine([p.float().sum(), (p.float() * 3).sum()], [p], Weighted(1, 1))
    assert p.grad.dtype == torch.bfloat16 and p.grad[0] == 4
    assert report.gram.tolist() == [[5000, 15000], [15000, 45000]]


# ------------------------------------------------------------------------------------------ the Gramian


def test_the_gramian_of_nearly_orthogonal_gradients_is_exact():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 10**6, generator=generator, dtype=torch.float64)
    b = b - (a @ b) / (a @ a) * a + 1e-4 * a  # a cosine of 1e-4 that cancels over a million entries
    a, b = a.float(), b.float()
    rows = [[v[:3].clone(), v[3:600_000].reshape(3, -1), v[600_000:].clone()] for v in (a, b)]
    exact = torch.stack([a, b]).double() @ torch.stack([a, b]).double().T
    gram = gramian(rows)

    def cosine(g):
        return g[0, 1] / (g[0, 0] * g[1, 1]).sqrt()

    assert abs(cosine(exact)) < 2e-4
    assert abs(cosine(gram) / cosine(exact) - 1) < 1e-5
    torch.testing.assert_close(gram, exact, rtol=1e-10, atol=0)


def test_the_gramian_takes_missing_gradients_as_zero():
    a, b = torch.randn(5), torch.randn(2, 3)
    assert gramian([[None, b, None], [a, None, None]])[0, 1] == 0
    assert gramian([[], []]).tolist() == [[0, 0], [0, 0]]
    torch.testing.assert_close(gramian([[None, b]])[0, 0], b.double().square().sum())


# ------------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_names_its_task(bad):
    world = World()
    losses = world.losses(ALL)
    losses["bi"] = losses["bi"] * bad
    with pytest.raises(MTKError, match=r"gradient of task 'bi' is not finite.*lower learning rate or fp32"):
        combine(losses, world.shared, "pcgrad")
    assert all(p.grad is None for p in world.shared)  # as they were


def test_a_step_has_its_tasks_and_micro_batches():
    p, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    engine = GradientEngine([p], PCGrad())
    info = StepInfo(("a", "b"), 0, 0, torch.Generator())
    with pytest.raises(MTKError, match="no step is running"):
        engine.backward({"a": p.sum()})
    engine.start(info)
    with pytest.raises(MTKError, match="expected losses of the step's tasks a, b; found a"):
        engine.backward({"a": p.sum()})
    with pytest.raises(MTKError, match="tasks a, b; found a, b, c"):
        engine.backward({"a": p.sum(), "b": p.sum(), "c": p.sum()})
    with pytest.raises(MTKError, match=r"task 'b': expected its loss .* found shape \(2,\)"):
        engine.backward({"a": p.sum(), "b": p})
    with pytest.raises(MTKError, match=r"task 'b': expected its loss .* found float"):
        engine.backward({"a": p.sum(), "b": 0.5})
    engine.start(info, 2)
    engine.backward({"a": p.sum()})
    with pytest.raises(MTKError, match="1 of 2 micro-batches, no loss for b"):
        engine.finish()
    engine.backward({"b": p.sum()})
    with pytest.raises(MTKError, match="more often than the 2 micro-batches"):
        engine.backward({"b": p.sum()})
    engine.finish()
    with pytest.raises(MTKError, match="no step is running"):
        engine.finish()
    with pytest.raises(MTKError, match="distinct tasks"):
        engine.start(StepInfo((), 0, 0, torch.Generator()))
    with pytest.raises(MTKError, match="'a' and 'b' own one parameter"):
        GradientEngine([p], PCGrad(), {"a": [other], "b": [other]})
    with pytest.raises(MTKError, match=r"weighs losses, and over 2 micro-batches .* parameters of b"):
        GradientEngine([p], Softmax(), {"a": [other]}).start(info, 2)
    with pytest.raises(MTKError, match="expected parameters"):
        GradientEngine([p * 2], PCGrad())


def test_what_a_combiner_may_not_do():
    p = nn.Parameter(torch.ones(2))

    def kind(needs, **methods):
        return type("Odd", (GradientCombiner,), {"needs": needs, **methods})()

    def run(combiner):
        combine([p.sum(), p.square().sum()], [p], combiner)

    with pytest.raises(MTKError, match="may not read the losses"):
        run(kind("nothing", loss_weights=lambda self, losses, info: losses / losses.sum()))
    with pytest.raises(MTKError, match="needs = 'gram' loss_weights may not read the losses"):
        run(kind("gram", loss_weights=lambda self, losses, info: losses, gradient_weights=None))
    with pytest.raises(MTKError, match=r"Odd: expected weights of shape \(2,\), found \(1,\)"):
        run(kind("losses", loss_weights=lambda self, losses, info: losses[:1]))
    with pytest.raises(MTKError, match="expected finite weights"):
        run(kind("gram", gradient_weights=lambda self, gram, losses, info: gram[0] / 0))
    with pytest.raises(MTKError, match=r"expected a chunk of shape \(2,\)"):
        run(kind("gradients", combine=lambda self, chunk, info: chunk))
    with pytest.raises(MTKError, match="expected nothing, losses, gram or gradients"):
        run(kind("everything"))


# ------------------------------------------------------------------------------------------ combine


def test_combine_in_a_vision_loop():
    """Ten lines of anybody's loop, against PCGrad written out on flat gradients."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    digit, parity = nn.Linear(16, 10), nn.Linear(16, 2)
    everything = [*backbone.parameters(), *digit.parameters(), *parity.parameters()]
    optimizer = torch.optim.SGD(everything, lr=0.1)
    images, labels = torch.randn(12, 1, 8, 8), torch.arange(12) % 10
    for step in range(3):
        features = backbone(images)
        losses = {
            "digit": F.cross_entropy(digit(features), labels),
            "parity": F.cross_entropy(parity(features), 1 - labels % 2) - features.mean(),
        }
        heads = torch.autograd.grad(sum(losses.values()), [digit.weight, parity.weight], retain_graph=True)
        a, b = reference_gradients(losses, list(backbone.parameters())).values()
        optimizer.zero_grad()
        combine(losses, backbone.parameters(), "pcgrad", step=step)
        flat = torch.cat([p.grad.flatten() for p in backbone.parameters()])
        dot = min(0.0, float(a @ b))
        torch.testing.assert_close(flat, a - dot / (b @ b) * b + b - dot / (a @ a) * a)
        torch.testing.assert_close((digit.weight.grad, parity.weight.grad), heads)
        optimizer.step()


@pytest.mark.parametrize("combiner", ["sum", "pcgrad"])
def test_combine_adds_to_what_is_there_and_clips_what_it_adds(combiner):
    p, idle = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    p.grad, idle.grad = torch.ones(3), torch.ones(3)
    before = p.grad
    report = combine((p.sum(), p.sum()), [p, idle], combiner, max_norm=3**0.5)
    assert report.tasks == ("task0", "task1")
    assert float(report.norm) == pytest.approx(2 * 3**0.5)
    torch.testing.assert_close(p.grad, torch.full((3,), 2.0))
    assert p.grad is before and idle.grad.tolist() == [1, 1, 1]


def test_combine_is_settled_by_manual_seed_or_a_generator():
    rows = torch.randn(8, 5)

    def weights(generator=None):
        p = nn.Parameter(torch.zeros(5))
        return combine(list(rows @ p), [p], "pcgrad", generator=generator).weights

    torch.manual_seed(1)
    first, second = weights(), weights()
    torch.manual_seed(1)
    assert torch.equal(weights(), first) and not torch.equal(first, second)
    assert torch.equal(weights(torch.Generator().manual_seed(3)), weights(torch.Generator().manual_seed(3)))


def test_combine_says_what_is_wrong():
    p = nn.Parameter(torch.ones(2))
    with pytest.raises(PluginError, match="did you mean 'pcgrad'"):
        combine([p.sum()], [p], "pcgard")
    with pytest.raises(MTKError, match=r"give module.parameters\(\)"):
        combine([p.sum()], nn.Linear(1, 1), "sum")
    with pytest.raises(MTKError, match="expected a GradientCombiner or a text"):
        combine([p.sum()], [p], PCGrad)
