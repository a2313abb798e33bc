"""Nash-MTL: golden values, the bargaining solution in full gradient space, its state, and TorchJD's."""

from __future__ import annotations

import copy

import pytest
import torch

from mtk import ConfigError, StepInfo, build
from mtk_combiners.nash_mtl import NashMTL, nash_mtl_weights
from tests.test_mtk_combiners import gradients, seeded


def weights_of(combiner, g, names="abcdefgh"):
    info = StepInfo(tuple(names[: len(g)]), 0, 0, seeded())
    return combiner.gradient_weights(g @ g.T, torch.ones(len(g)), info)


def test_golden_values():
    g = torch.diag(torch.tensor([1.0, 8.0], dtype=torch.float64))
    torch.testing.assert_close(nash_mtl_weights(g @ g.T), torch.tensor([1.0, 1 / 8], dtype=torch.float64))
    half = torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)  # a / 2 = 1 / a
    torch.testing.assert_close(nash_mtl_weights(half), torch.full((2,), 2**0.5, dtype=torch.float64))
    limited = NashMTL().gradient_weights(half, torch.ones(2), StepInfo(("a", "b"), 0, 0, seeded()))
    torch.testing.assert_close(limited, torch.ones(2, dtype=torch.float64))  # ||d||^2 = 1 with d = g_1 + g_2


@pytest.mark.parametrize("tasks", [2, 3, 8, 32])
def test_no_direction_of_its_length_has_more_gain(tasks):
    """The sum of the logarithms of the gains has, on the ball, a gradient along d: d is its maximum."""
    g = gradients(tasks, seed=tasks)
    weights = nash_mtl_weights(g @ g.T)
    d = weights @ g
    assert (weights > 0).all() and (g @ d > 0).all()
    torch.testing.assert_close((g @ d) ** -1 @ g, d, rtol=0, atol=1e-5)
    for seed in range(5):
        other = d + 0.1 * torch.randn(d.shape, dtype=d.dtype, generator=seeded(seed)) @ torch.linalg.pinv(g) @ g
        other = other * d.norm() / other.norm()
        assert (g @ other).clamp(min=1e-300).log().sum() < (g @ d).log().sum()


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_only_directions_count(scale):
    g = gradients(5)
    d = weights_of(NashMTL(max_norm=0), g) @ g
    assert float(d.norm()) == pytest.approx(5**0.5, rel=1e-6)
    torch.testing.assert_close(weights_of(NashMTL(max_norm=0), scale * g) @ g * scale, d, rtol=1e-9, atol=1e-9)
    each = g * torch.logspace(-12, 12, 5, dtype=torch.float64).unsqueeze(1)
    torch.testing.assert_close(weights_of(NashMTL(max_norm=0), each) @ each, d, rtol=1e-9, atol=1e-9)


def test_the_limit_of_the_norm():
    g = gradients(4)
    free = weights_of(NashMTL(max_norm=0), g)
    torch.testing.assert_close(weights_of(NashMTL(), g), free / 2, rtol=1e-6, atol=0)
    torch.testing.assert_close(weights_of(NashMTL(max_norm=0.5), g), free / 4, rtol=1e-6, atol=0)
    torch.testing.assert_close(weights_of(NashMTL(max_norm=3), g), free)


def test_tasks_may_change_places():
    g, order = gradients(6), torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(nash_mtl_weights(g[order] @ g[order].T), nash_mtl_weights(g @ g.T)[order])


@pytest.mark.filterwarnings("error")
def test_degenerate_gradients():
    g = gradients(1)[0]
    zero = torch.zeros_like(g)

    def update(*rows):
        stacked = torch.stack(rows)
        return weights_of(NashMTL(max_norm=0), stacked) @ stacked

    one = g / g.norm()
    torch.testing.assert_close(update(g), one)
    assert not update(zero, zero).any()
    torch.testing.assert_close(update(g, zero), one)
    torch.testing.assert_close(update(g, g, g), 3**0.5 * one)
    assert update(g, -2 * g).abs().max() < 1e-10
    assert update(g, -g, zero, g).abs().max() < 1e-3
    dependent = gradients(8, size=4)
    assert weights_of(NashMTL(), dependent).isfinite().all()


def test_weights_are_kept_between_solutions_by_name():
    first, second = gradients(3, seed=1), gradients(3, seed=2)
    combiner = NashMTL(update_every=2, max_norm=0)
    solved = weights_of(combiner, first)
    assert torch.equal(weights_of(combiner, second.flip(0), "cba"), solved.flip(0))
    assert not torch.equal(weights_of(combiner, second), solved)
    solved = weights_of(combiner, first[:2], "ad")  # d is new
    assert torch.equal(weights_of(combiner, second[:2], "ad"), solved)


def test_a_zero_gradient_leaves_the_weight():
    g, combiner = gradients(2), NashMTL(max_norm=0)
    before = weights_of(combiner, g)
    after = weights_of(combiner, g * torch.tensor([[1.0], [0.0]], dtype=torch.float64))
    assert after[1] == before[1] and float(after[0]) == pytest.approx(1 / float(g[0].norm()))


def test_checkpoint():
    g = gradients(3)
    combiner = NashMTL(update_every=3)
    weights_of(combiner, g)
    state = copy.deepcopy(combiner.state_dict())
    resumed = NashMTL(update_every=3)
    resumed.load_state_dict(state)
    for seed in range(4):
        rows = gradients(3, seed=seed)
        assert torch.equal(weights_of(combiner, rows), weights_of(resumed, rows))
    assert set(state["weights"]) == set("abc")


def test_options():
    assert isinstance(build("combiner", "nash-mtl", update_every=10), NashMTL)
    with pytest.raises(ConfigError, match="update_every: expected at least 1 step, found 0"):
        NashMTL(update_every=0)
    for norm in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="max_norm: expected a norm, or 0 for no limit, found"):
            NashMTL(max_norm=norm)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tasks", [2, 3, 5])
@pytest.mark.parametrize("max_norm", [0.0, 1.0])
def test_it_agrees_with_torchjd(tasks, max_norm):
    """Of unit gradients: between lengths of 0.1 and 10 its sequence of convex problems stalls far from a solution."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    pytest.importorskip("cvxpy")
    pytest.importorskip("ecos")
    g = torch.nn.functional.normalize(gradients(tasks))
    theirs = aggregation.NashMTL(n_tasks=tasks, max_norm=max_norm, optim_niter=100)(g)
    ours = weights_of(NashMTL(max_norm=max_norm), g) @ g
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
