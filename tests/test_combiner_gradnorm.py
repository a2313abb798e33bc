"""GradNorm: golden values, against autograd through the paper's loss, absences, checkpoints, training."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from mtk import ConfigError, StepInfo, build, combine
from mtk.gradients import GradientEngine
from mtk_combiners.gradnorm import GradNorm, gradnorm_gradient


def info(tasks):
    return StepInfo(tuple(tasks), 0, 0, torch.Generator())


def weights(combiner, tasks):
    return combiner.loss_weights(torch.full((len(tasks),), torch.nan), info(tasks)).double()


def step(combiner, tasks, gradients, losses):
    """One step as the engine makes it: gradients [T, P] before the loss weights."""
    scaled = weights(combiner, tasks).unsqueeze(1) * gradients
    assert combiner.gradient_weights(scaled @ scaled.T, losses, info(tasks)).tolist() == [1] * len(tasks)


def draws(steps, tasks, seed=0):
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(steps, tasks, 5, dtype=torch.float64, generator=generator)
    return gradients, torch.rand(steps, tasks, dtype=torch.float64, generator=generator) + 0.1


def test_golden_value():
    """By hand: G = (3, 1), mean 2, equal rates: log w moves by -+ lr G / 2 = (-0.15, +0.05), then to sum 2."""
    combiner = GradNorm(alpha=1.5, lr=0.1)
    assert weights(combiner, "ab").tolist() == [1, 1]
    step(combiner, "ab", torch.tensor([[3.0, 0.0], [0.0, 1.0]]).double(), torch.tensor([2.0, 5.0]).double())
    a, b = math.exp(-0.15), math.exp(0.05)
    assert weights(combiner, "ab").tolist() == pytest.approx([2 * a / (a + b), 2 * b / (a + b)], abs=1e-6)
    # Equal norms; a's loss halved since: the rates are 2/3 and 4/3, so that b is to have more.
    assert gradnorm_gradient(torch.tensor([2.0, 2.0]), torch.tensor([0.5, 1.0]), 1.0).tolist() == [2, -2]


@pytest.mark.parametrize("alpha", [0.0, 0.12, 1.5])
def test_the_gradient_is_that_of_the_papers_loss(alpha):
    gradients, losses = (x[0] for x in draws(1, 4))
    first, log_w = torch.ones(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64, requires_grad=True)
    norms = (log_w.exp().unsqueeze(1) * gradients).norm(dim=1)  # G_i = |grad w_i L_i|
    ratios = losses / first
    target = (norms.mean() * (ratios / ratios.mean()) ** alpha).detach()
    expected = torch.autograd.grad((norms - target).abs().sum(), log_w)[0]
    torch.testing.assert_close(gradnorm_gradient(norms.detach(), ratios, alpha), expected)


def test_properties():
    gradients, losses = draws(5, 3)
    one, other, scaled = GradNorm(), GradNorm(), GradNorm()
    for g, x in zip(gradients, losses, strict=True):
        step(one, "abc", g, x)
        step(other, "cba", g.flip(0), x.flip(0))
        step(scaled, "abc", 1e-6 * g, 1e-6 * x)
    assert float(weights(one, "abc").sum()) == pytest.approx(3) and not torch.equal(weights(one, "abc"), torch.ones(3))
    torch.testing.assert_close(weights(other, "cba").flip(0), weights(one, "abc"))
    torch.testing.assert_close(weights(scaled, "abc"), weights(one, "abc"))  # a common factor changes nothing
    alone = GradNorm()
    step(alone, "a", gradients[0, :1], losses[0, :1])
    assert weights(alone, "a").tolist() == [1] and alone.state_dict()["logs"] == {"a": 0}
    equal = GradNorm()
    step(equal, "abc", gradients[0, :1].repeat(3, 1), torch.ones(3).double())
    torch.testing.assert_close(weights(equal, "abc"), torch.ones(3).double())


def test_zero_gradients_and_losses():
    combiner, zero = GradNorm(lr=1.0), torch.zeros(2, 5, dtype=torch.float64)
    step(combiner, "ab", zero, torch.ones(2).double())
    step(combiner, "ab", zero, torch.zeros(2).double())
    assert weights(combiner, "ab").tolist() == [1, 1]
    gradients = draws(1, 3)[0][0]
    for _ in range(300):  # huge steps, and a task whose gradient is a million times larger
        step(
            combiner, "abc", gradients * torch.tensor([[1e6], [1.0], [0.0]]), torch.tensor([1.0, 1e-300, 1.0]).double()
        )
    found = weights(combiner, "abc")
    assert found.isfinite().all() and (found >= 0).all() and float(found.sum()) == pytest.approx(3)


def test_absent_and_unlabelled_tasks():
    gradients, losses = draws(4, 3)
    combiner = GradNorm(lr=0.1)
    for g, x in zip(gradients, losses, strict=True):
        step(combiner, "abc", g, x)
    state, share = copy.deepcopy(combiner.state_dict()), weights(combiner, "abc")
    step(combiner, "cab", gradients[0], torch.tensor([1.0, 0.0, 0.5]).double())  # a has no labels
    step(combiner, "bc", gradients[1, :2], torch.ones(2).double())
    after = combiner.state_dict()
    assert after["logs"]["a"] == state["logs"]["a"] and after["logs"]["b"] != state["logs"]["b"]
    assert after["first"] == state["first"]
    assert float(weights(combiner, "abc")[0]) == pytest.approx(float(share[0]))  # b and c share what they had
    assert float(weights(combiner, "bc").sum()) == pytest.approx(2)


def test_a_checkpoint_goes_on_bit_for_bit():
    gradients, losses = draws(6, 2)
    whole, second = GradNorm(), GradNorm()
    for i in range(6):
        if i == 3:
            second.load_state_dict(copy.deepcopy(whole.state_dict()))
        for combiner in (whole, second) if i >= 3 else (whole,):
            step(combiner, "ab", gradients[i], losses[i])
    assert whole.state_dict() == second.state_dict()


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_in_training_gradient_norms_become_equal_and_heads_are_scaled(micro_batches):
    """alpha = 0: a task whose loss is a hundred times larger ends with a hundredth of the weight."""
    p = torch.nn.Parameter(torch.zeros(2))
    heads = {name: [torch.nn.Parameter(torch.ones(1))] for name in ("large", "small")}
    engine, combiner = None, GradNorm(alpha=0, lr=0.05)
    for number in range(400):
        engine = GradientEngine([p], combiner, heads)
        for parts in heads.values():
            parts[0].grad = None
        engine.start(StepInfo(("large", "small"), number, 0, torch.Generator()), micro_batches)
        for _ in range(micro_batches):
            large = 100 * (p[0] - heads["large"][0]).square().sum()  # gradients of one length, apart from the 100
            small = (p[1] - heads["small"][0]).square().sum()
            engine.backward({"large": large / micro_batches, "small": small / micro_batches})
        report = engine.finish()
    norms = report.gram.diagonal().sqrt() * report.weights
    assert float(norms[0] / norms[1]) == pytest.approx(1, abs=0.2)
    large, small = report.weights.tolist()
    assert large + small == pytest.approx(2) and small / large == pytest.approx(100, rel=0.2)
    assert float(heads["large"][0].grad) == pytest.approx(large * 200, rel=1e-5)
    torch.testing.assert_close(p.grad, torch.tensor([-200 * large, -2 * small]))


def test_in_training_the_slow_task_is_favoured():
    p, combiner = torch.nn.Parameter(torch.tensor([1.0, 1.0])), GradNorm(alpha=1.5, lr=0.02)
    for number in range(30):
        p.grad = None
        losses = {"fast": p[0] ** 2, "slow": (p[1] - 4).abs() + (p[1] * 0).sum()}
        report = combine(losses, [p], combiner, step=number)
        p.data -= 0.02 * p.grad
    ratio = [loss.item() / first for loss, first in zip(losses.values(), (1.0, 3.0), strict=True)]
    assert ratio[0] < ratio[1] and report.weights[1] > report.weights[0]


def test_options():
    with pytest.raises(ConfigError, match="alpha: expected a finite number from 0 on"):
        build("combiner", "gradnorm", alpha=-0.1)
    for lr in (0, float("inf")):
        with pytest.raises(ConfigError, match="lr: expected a finite number above 0"):
            build("combiner", "gradnorm", lr=lr)
