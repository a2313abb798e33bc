"""FairGrad: golden values, the optimum in full gradient space, and TorchJD's least squares."""

from __future__ import annotations

import pytest
import torch

from mtk import ConfigError, StepInfo, build
from mtk_combiners.fairgrad import FairGrad, fairgrad_weights
from tests.test_mtk_combiners import gradients, seeded

ALPHAS = [0.1, 0.5, 1.0, 2.0, 10.0]


def update(*rows, alpha=1.0):
    g = torch.stack(rows)
    return fairgrad_weights(g @ g.T, alpha) @ g


def test_golden_values():
    g = torch.diag(torch.tensor([1.0, 8.0], dtype=torch.float64))  # by hand: w = length^(-2 alpha / (1 + alpha))
    torch.testing.assert_close(fairgrad_weights(g @ g.T, 1.0), torch.tensor([1.0, 1 / 8], dtype=torch.float64))
    torch.testing.assert_close(fairgrad_weights(g @ g.T, 2.0), torch.tensor([1.0, 1 / 16], dtype=torch.float64))
    torch.testing.assert_close(fairgrad_weights(g @ g.T, 0.5), torch.tensor([1.0, 1 / 4], dtype=torch.float64))
    half = torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)  # w / 2 = w^(-1 / alpha)
    for alpha in ALPHAS:
        expected = torch.full((2,), 2 ** (alpha / (1 + alpha)), dtype=torch.float64)
        torch.testing.assert_close(fairgrad_weights(half, alpha), expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("tasks", [2, 3, 8, 32])
@pytest.mark.parametrize("alpha", ALPHAS[1:])
def test_it_is_the_fair_optimum(tasks, alpha):
    """At the maximum of the utility less ||d||^2 / 2, d is the sum of g_i <g_i, d>^-alpha; and every task gains."""
    g = gradients(tasks, seed=tasks)
    d = update(*g, alpha=alpha)
    assert (g @ d > 0).all()
    torch.testing.assert_close((g @ d) ** -alpha @ g, d, rtol=0, atol=1e-4 * float(d.norm()))
    weights = fairgrad_weights(g @ g.T, alpha)
    torch.testing.assert_close((g @ g.T @ weights) ** alpha * weights, torch.ones_like(weights), rtol=1e-4, atol=0)


@pytest.mark.parametrize("tasks", [2, 3, 8, 32])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_no_task_loses(tasks, alpha):
    """Up to the part that cosines are made smaller by: with a small alpha a gain may be below it."""
    g = gradients(tasks, seed=tasks)
    weights = fairgrad_weights(g @ g.T, alpha)
    assert (weights > 0).all()
    assert (g @ (weights @ g) >= -2e-8 * weights * g.norm(dim=1) ** 2).all()


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_its_scale(alpha, scale):
    g = gradients(4)
    expected = update(*g, alpha=alpha) * scale ** ((1 - alpha) / (1 + alpha))
    torch.testing.assert_close(update(*(scale * g), alpha=alpha), expected, rtol=1e-9, atol=0)


def test_proportional_fairness_knows_no_lengths():
    g = gradients(6)
    each = g * torch.logspace(-12, 12, 6, dtype=torch.float64).unsqueeze(1)
    torch.testing.assert_close(update(*each), update(*g), rtol=1e-9, atol=1e-9)
    assert float(update(*g).norm()) == pytest.approx(6**0.5, rel=1e-6)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_tasks_may_change_places(alpha):
    g, order = gradients(6), torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(fairgrad_weights(g[order] @ g[order].T, alpha), fairgrad_weights(g @ g.T, alpha)[order])


def test_alpha_zero_is_the_sum():
    g = gradients(3)
    assert fairgrad_weights(g @ g.T, 0.0).tolist() == [1.0] * 3


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("alpha", ALPHAS)
def test_degenerate_gradients(alpha):
    g = gradients(1)[0]
    zero = torch.zeros_like(g)
    alone = update(g, alpha=alpha)
    torch.testing.assert_close(alone, g * g.norm() ** (-2 * alpha / (1 + alpha)))
    assert not update(zero, zero, alpha=alpha).any()
    torch.testing.assert_close(update(g, zero, alpha=alpha), alone)
    torch.testing.assert_close(update(g, g, g, alpha=alpha), alone * 3 ** (1 / (1 + alpha)), rtol=1e-6, atol=0)
    assert update(g, -g, alpha=alpha).abs().max() < 1e-6
    assert update(g, -2 * g, zero, alpha=alpha).isfinite().all()
    for tasks, size, spread in [(2, 1, 12), (8, 4, 0), (8, 4, 12), (32, 16, 12)]:  # they depend on each other
        rows = gradients(tasks, size) * torch.logspace(-spread, spread, tasks, dtype=torch.float64).unsqueeze(1)
        weights = fairgrad_weights(rows @ rows.T, alpha)
        assert weights.isfinite().all() and (weights >= 0).all()


def test_options():
    assert isinstance(build("combiner", "fairgrad"), FairGrad)
    info = StepInfo(("a", "b"), 0, 0, seeded())
    weights = build("combiner", "fairgrad", alpha=2).gradient_weights(
        torch.diag(torch.tensor([1.0, 64.0], dtype=torch.float64)), torch.ones(2), info
    )
    assert weights.tolist() == pytest.approx([1, 1 / 16])
    for alpha in (-1.0, 0.05, 11.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match=r"alpha: expected 0, or a number from 0\.1 to 10, found"):
            FairGrad(alpha=alpha)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_it_agrees_with_torchjd(tasks, alpha):
    aggregation = pytest.importorskip("torchjd.aggregation")
    g = gradients(tasks) / 7
    theirs = aggregation.FairGrad(alpha=alpha)(g)
    torch.testing.assert_close(update(*g, alpha=alpha), theirs, rtol=0, atol=1e-3 * float(theirs.norm()))
