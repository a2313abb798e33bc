"""UPGrad: a golden value, the projections by Hildreth's method on full gradients, and TorchJD's."""

from __future__ import annotations

import pytest
import torch

from mtk import StepInfo, build, combine
from mtk_combiners.dual_cone import project_weights
from mtk_combiners.upgrad import UPGrad, upgrad_weights
from tests.test_mtk_combiners import gradients, seeded


def projected(vector, g, sweeps=5000):
    """The nearest vector with no negative inner product with a row of g: Hildreth's cyclic corrections."""
    found, multipliers = vector.clone(), torch.zeros(len(g), dtype=g.dtype)
    for _ in range(sweeps):
        before = found.clone()
        for i, row in enumerate(g):
            step = torch.maximum(-(row @ found) / (row @ row), -multipliers[i])
            multipliers[i] += step
            found += step * row
        if (before - found).norm() <= 1e-12 * vector.norm():
            break
    return found


def update(*rows):
    g = torch.stack(rows)
    return upgrad_weights(g @ g.T) @ g


def test_golden_value():
    g = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)  # by hand: (1/2, 1/2) and (0, 1)
    torch.testing.assert_close(upgrad_weights(g @ g.T), torch.tensor([1.0, 0.75], dtype=torch.float64))
    torch.testing.assert_close(update(*g), torch.tensor([0.25, 0.75], dtype=torch.float64))


@pytest.mark.parametrize("tasks", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_mean_of_the_projected_gradients(tasks, seed):
    g = gradients(tasks, seed=seed)
    assert (g @ g.T < 0).any()
    directly = torch.stack([projected(row, g) for row in g]).mean(0)
    torch.testing.assert_close(update(*g), directly, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("tasks", "size"), [(2, 3), (3, 2), (8, 50), (8, 4), (32, 100), (32, 16)])
@pytest.mark.parametrize("spread", [0, 12])
def test_no_task_loses(tasks, size, spread):
    """Also where the gradients depend on each other, and where their lengths go from 1e-12 to 1e12."""
    g = gradients(tasks, size=size, seed=tasks)
    g = g * torch.logspace(-spread, spread, tasks, dtype=torch.float64).unsqueeze(1)
    weights, lengths = upgrad_weights(g @ g.T), g.norm(dim=1)
    assert (weights >= 1 / tasks - 1e-15).all()
    assert (g @ (weights @ g) >= -1e-9 * lengths * (weights * lengths).max()).all()


def test_lengths_scale_each_projection_alone():
    g = gradients(4)
    factors = torch.tensor([1e-12, 1.0, 1e3, 1e12], dtype=torch.float64)
    one, each = torch.eye(4, dtype=torch.float64), g * factors.unsqueeze(1)
    found = project_weights(each @ each.T, one) @ each / factors.unsqueeze(1)
    torch.testing.assert_close(found, project_weights(g @ g.T, one) @ g, rtol=1e-9, atol=1e-9)


def test_tasks_may_change_places():
    g, order = gradients(6), torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(upgrad_weights(g[order] @ g[order].T), upgrad_weights(g @ g.T)[order])


def test_without_conflicts_it_is_the_mean():
    g = gradients(5).abs()
    assert upgrad_weights(g @ g.T).tolist() == pytest.approx([0.2] * 5, rel=1e-15)


def test_degenerate_gradients():
    g = gradients(1)[0]
    zero = torch.zeros_like(g)
    assert torch.equal(update(g), g)
    assert not update(zero, zero).any()
    torch.testing.assert_close(update(g, zero), g / 2)
    torch.testing.assert_close(update(g, g, g), g)
    assert update(g, -2 * g).abs().max() < 1e-12
    assert update(g, -g, zero, g).abs().max() < 1e-12
    underflow = torch.tensor([[1.0, -1e-200], [-1e-200, 0.0]], dtype=torch.float64)
    assert upgrad_weights(underflow).tolist() == [0.5, 0.5]


def test_through_the_engine():
    p = torch.nn.Parameter(torch.zeros(2))
    report = combine([p[0], p[1] - p[0]], [p], "upgrad")
    assert p.grad.tolist() == pytest.approx([0.25, 0.75]) and report.conflicts == 1


def test_the_plugin_registers_it():
    combiner = build("combiner", "upgrad")
    gram = torch.eye(2, dtype=torch.float64)
    assert isinstance(combiner, UPGrad) and combiner.needs == "gram"
    assert combiner.gradient_weights(gram, torch.ones(2), StepInfo(("a", "b"), 0, 0, seeded())).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(("tasks", "size"), [(2, 5), (3, 5), (5, 50), (10, 50)])
def test_it_agrees_with_torchjd(tasks, size):
    aggregation = pytest.importorskip("torchjd.aggregation")
    pytest.importorskip("quadprog")
    linalg = pytest.importorskip("torchjd.linalg")
    g = gradients(tasks, size)
    theirs = aggregation.UPGrad(projector=linalg.QuadprogProjector(norm_eps=0.0, reg_eps=1e-12))
    torch.testing.assert_close(update(*g), theirs(g), rtol=1e-6, atol=1e-6)
