"""CAGrad: a golden value, its saddle point in full gradient space, SciPy's SLSQP, and TorchJD's conic solver."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from mtk import ConfigError, StepInfo, build
from mtk_combiners.cagrad import CAGrad, cagrad_weights

torch.set_num_threads(1)


def gradients(tasks, size=50, seed=0):
    """[T, P] float64 with plenty of conflicts, of different lengths."""
    g = torch.randn(tasks, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (g - 0.5 * g.mean(0)) * torch.logspace(-1, 1, tasks, dtype=torch.float64).unsqueeze(1)


def update(g, c=0.5):
    return cagrad_weights(g @ g.T, c) @ g


def check_saddle_point(g, c):
    """d is in the ball, and its least gain reaches the bound that the paper's dual objective is at every w."""
    weights = cagrad_weights(g @ g.T, c)
    extra = weights - 1 / len(g)
    g0, d = g.mean(0), weights @ g
    radius = c * g0.norm()
    assert (extra >= -1e-12).all()
    assert (d - g0).norm() <= radius * (1 + 1e-9)
    gw, rounding = extra @ g / extra.sum(), 1e-9 if len(g) <= g.shape[1] else 1e-6
    bound = gw @ g0 + radius * gw.norm()
    slack = rounding * g0.norm() * gw.norm() + 1e-12 * g.norm(dim=1) * d.norm()
    assert (g @ d >= bound - slack).all()


def by_slsqp(g, c):
    """The paper's own way: minimise the dual objective over the simplex, in full gradient space."""
    rows, tasks = g.numpy(), len(g)
    g0 = rows.mean(0)
    radius = c * np.linalg.norm(g0)
    found = minimize(
        lambda w: w @ rows @ g0 + radius * np.linalg.norm(w @ rows),
        np.full(tasks, 1 / tasks),
        jac=lambda w: rows @ g0 + radius * rows @ (w @ rows) / np.linalg.norm(w @ rows),
        bounds=[(0, 1)] * tasks,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-15, "maxiter": 500},
    )
    gw = found.x @ rows
    return torch.from_numpy(g0 + radius * gw / np.linalg.norm(gw))


def test_golden_value():
    """By hand: g1 = (1, 0), g2 = (0, 1): both gain alike, so that d = (1 + c) g0. With g2 = (0, 3) and c = 1/2 ..."""
    weights = cagrad_weights(torch.eye(2, dtype=torch.float64), 0.5)
    torch.testing.assert_close(weights, torch.full((2,), 0.75, dtype=torch.float64))
    # ... g0 = (1/2, 3/2) gains 1/2 for g1 and 9/2 for g2; the ball allows sqrt(10)/4 along g1, and g2 stays ahead.
    weights = cagrad_weights(torch.diag(torch.tensor([1.0, 9.0], dtype=torch.float64)), 0.5)
    torch.testing.assert_close(weights, torch.tensor([0.5 + math.sqrt(10) / 4, 0.5], dtype=torch.float64))


@pytest.mark.parametrize("c", [0.1, 0.5, 0.99])
@pytest.mark.parametrize(("tasks", "size"), [(2, 50), (3, 50), (5, 50), (32, 64), (5, 3), (12, 4)])
def test_solves_the_inner_problem(tasks, size, c):
    for seed in range(3):
        check_saddle_point(gradients(tasks, size, seed), c)


@pytest.mark.parametrize("tasks", [2, 3, 5])
@pytest.mark.parametrize("c", [0.2, 0.8])
def test_equals_slsqp_in_gradient_space(tasks, c):
    for seed in range(3):
        g = gradients(tasks, seed=seed)
        torch.testing.assert_close(update(g, c), by_slsqp(g, c), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("tasks", [2, 4, 8])
def test_equals_torchjd(tasks):
    pytest.importorskip("cvxpy")
    aggregation = pytest.importorskip("torchjd.aggregation")
    g = gradients(tasks)
    reference = aggregation.CAGrad(c=0.5, norm_eps=1e-9)(g)
    torch.testing.assert_close(update(g), reference, rtol=0, atol=1e-3 * float(reference.norm()))


def test_without_radius_is_the_mean():
    g = gradients(5)
    assert cagrad_weights(g @ g.T, 0.0).tolist() == [0.2] * 5


def test_helps_the_worst_off():
    for seed in range(10):
        g = gradients(4, seed=seed)
        gains = [float((g @ update(g, c)).min()) for c in (0.0, 0.3, 0.6, 0.9)]
        assert gains == sorted(gains) and update(g, 0.3) @ g.mean(0) > 0


def test_permutation_and_scale():
    g, order = gradients(6), [3, 1, 5, 0, 2, 4]
    torch.testing.assert_close(update(g[order]), update(g), rtol=1e-9, atol=1e-10)
    for scale in (1e-12, 1e12):
        torch.testing.assert_close(update(scale * g), scale * update(g), rtol=1e-8, atol=1e-9 * scale)


@pytest.mark.parametrize("seed", range(4))
def test_scales_between_tasks(seed):
    g = gradients(4, seed=seed) * torch.tensor([[1e12], [1.0], [1e-12], [1e6]], dtype=torch.float64)
    check_saddle_point(g, 0.5)
    g = torch.diag(torch.tensor([1e12, 1e-12], dtype=torch.float64))  # by hand: all the radius goes to the small one
    torch.testing.assert_close(update(g), torch.tensor([0.5e12, 0.25e12], dtype=torch.float64), rtol=1e-9, atol=0)


def test_degenerate_gradients():
    g, other = gradients(1)[0], gradients(1, seed=1)[0]
    zero = torch.zeros_like(g)
    assert cagrad_weights(torch.tensor([[3.0]], dtype=torch.float64), 0.5).tolist() == pytest.approx([1.5])
    torch.testing.assert_close(update(torch.stack([g, g, g])), 1.5 * g)
    assert update(torch.stack([g, -g])).norm() < 1e-12 * g.norm()
    torch.testing.assert_close(update(torch.stack([g, -2 * g])), -0.25 * g)  # by hand: the ball does not reach zero
    assert update(torch.stack([zero, zero])).norm() == 0
    torch.testing.assert_close(update(torch.stack([g, zero])), g / 2)  # nothing can be done for the second
    # g and -g forbid both directions; what is left of the mean is the other's part across
    across = other - (other @ g) / (g @ g) * g
    torch.testing.assert_close(update(torch.stack([g, -g, across])), across / 3)
    leaning = update(torch.stack([g, -g, across + 0.1 * g]))
    torch.testing.assert_close(leaning, across / 3, rtol=1e-6, atol=1e-9)


def test_weights_stay_moderate_where_tasks_nearly_oppose():
    """Float32 gradients are then summed with these weights: large ones that cancel out would leave noise."""
    g = gradients(1)[0]
    for noise in (1e-5, 1e-6, 1e-7, 1e-9, 1e-15):
        near = torch.stack([g, -g, gradients(1, seed=1)[0]])
        near[1] += noise * gradients(1, seed=2)[0]
        assert cagrad_weights(near @ near.T, 0.5).abs().max() < 1e6


def test_combiner_and_option():
    g = gradients(3)
    info = StepInfo(("a", "b", "c"), 0, 0, torch.Generator())
    found = CAGrad(c=0.4).gradient_weights(g @ g.T, torch.ones(3), info)
    assert torch.equal(found, cagrad_weights(g @ g.T, 0.4)) and found.dtype == torch.float64
    assert build("combiner", "cagrad").c == 0.5
    for wrong in (1.0, -0.1):
        with pytest.raises(ConfigError, match="c: expected a number from 0 to below 1"):
            build("combiner", "cagrad", c=wrong)
