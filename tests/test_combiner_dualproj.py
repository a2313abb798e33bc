"""DualProj: a golden value, the projection on full gradients, and TorchJD's."""

from __future__ import annotations

import pytest
import torch

from mtk import StepInfo, build
from mtk_combiners.dualproj import DualProj, dualproj_weights
from tests.test_combiner_upgrad import projected
from tests.test_mtk_combiners import gradients, seeded


def update(*rows):
    g = torch.stack(rows)
    return dualproj_weights(g @ g.T) @ g


def test_golden_value():
    g = torch.tensor([[1.0, 0.0], [-3.0, 1.0]], dtype=torch.float64)  # by hand: the mean (-1, 1/2) loses (-1, 0)
    torch.testing.assert_close(dualproj_weights(g @ g.T), torch.tensor([1.5, 0.5], dtype=torch.float64))
    torch.testing.assert_close(update(*g), torch.tensor([0.0, 0.5], dtype=torch.float64))


@pytest.mark.parametrize("tasks", [2, 3, 5])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_projected_mean(tasks, seed):
    g = gradients(tasks, seed=seed)
    torch.testing.assert_close(update(*g), projected(g.mean(0), g), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("tasks", "size"), [(2, 3), (3, 2), (8, 50), (8, 4), (32, 100), (32, 16)])
@pytest.mark.parametrize("spread", [0, 12])
def test_no_task_loses(tasks, size, spread):
    g = gradients(tasks, size=size, seed=tasks)
    g = g * torch.logspace(-spread, spread, tasks, dtype=torch.float64).unsqueeze(1)
    weights, lengths = dualproj_weights(g @ g.T), g.norm(dim=1)
    assert (weights >= 1 / tasks - 1e-15).all()
    assert (g @ (weights @ g) >= -1e-9 * lengths * (weights * lengths).max()).all()


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_it_scales_with_the_losses(scale):
    g = gradients(5)
    torch.testing.assert_close(update(*(scale * g)) / scale, update(*g), rtol=1e-9, atol=1e-12)


def test_tasks_may_change_places():
    g, order = gradients(6), torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(dualproj_weights(g[order] @ g[order].T), dualproj_weights(g @ g.T)[order])


def test_a_mean_without_conflicts_stays():
    g = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)  # they conflict; their mean does with neither
    assert dualproj_weights(g @ g.T).tolist() == [0.5, 0.5]


def test_degenerate_gradients():
    g = gradients(1)[0]
    zero = torch.zeros_like(g)
    assert torch.equal(update(g), g)
    assert not update(zero, zero).any()
    torch.testing.assert_close(update(g, zero), g / 2)
    torch.testing.assert_close(update(g, g, g), g)
    assert update(g, -2 * g).abs().max() < 1e-12
    assert update(g, -g, zero, g).abs().max() < 1e-12


def test_the_plugin_registers_it():
    combiner = build("combiner", "dualproj")
    gram = torch.eye(2, dtype=torch.float64)
    assert isinstance(combiner, DualProj) and combiner.needs == "gram"
    assert combiner.gradient_weights(gram, torch.ones(2), StepInfo(("a", "b"), 0, 0, seeded())).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(("tasks", "size"), [(2, 5), (3, 5), (5, 50), (10, 50)])
def test_it_agrees_with_torchjd(tasks, size):
    aggregation = pytest.importorskip("torchjd.aggregation")
    pytest.importorskip("quadprog")
    linalg = pytest.importorskip("torchjd.linalg")
    g = gradients(tasks, size)
    theirs = aggregation.DualProj(projector=linalg.QuadprogProjector(norm_eps=0.0, reg_eps=1e-12))
    torch.testing.assert_close(update(*g), theirs(g), rtol=1e-6, atol=1e-6)
