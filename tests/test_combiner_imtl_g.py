"""IMTL-G: a golden value, equal projections, the paper's own equation in full gradient space, and TorchJD's."""

from __future__ import annotations

import pytest
import torch

from mtk import StepInfo, build
from mtk_combiners.imtl_g import IMTLG, imtl_g_weights

torch.set_num_threads(1)


def gradients(tasks, size=50, seed=0):
    """[T, P] float64 with plenty of conflicts, of different lengths."""
    g = torch.randn(tasks, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (g - 0.5 * g.mean(0)) * torch.logspace(-1, 1, tasks, dtype=torch.float64).unsqueeze(1)


def update(g):
    return imtl_g_weights(g @ g.T) @ g


def directly(g):
    """The closed form: the weights of tasks 2 to T solve g_1 U^T = a D U^T; the first's makes the sum one."""
    unit = g / g.norm(dim=1, keepdim=True)
    d, u = g[0] - g[1:], unit[0] - unit[1:]
    rest = torch.linalg.solve((d @ u.T).T, u @ g[0])
    return torch.cat([1 - rest.sum().reshape(1), rest])


def test_golden_value():
    """By hand: lengths 1 and 2 weigh 2 : 1, whatever the angle."""
    for cosine in (0.0, 0.5, -0.9):
        gram = torch.tensor([[1.0, 2 * cosine], [2 * cosine, 4.0]], dtype=torch.float64)
        torch.testing.assert_close(imtl_g_weights(gram), torch.tensor([2 / 3, 1 / 3], dtype=torch.float64))


@pytest.mark.parametrize("tasks", [2, 3, 5, 32])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_paper_in_gradient_space(tasks, seed):
    g = gradients(tasks, size=64, seed=seed)
    weights = imtl_g_weights(g @ g.T)
    torch.testing.assert_close(weights, directly(g), rtol=1e-8, atol=1e-10)
    projections = (g / g.norm(dim=1, keepdim=True)) @ (weights @ g)
    torch.testing.assert_close(projections, projections[:1].expand(tasks), rtol=1e-8, atol=0)


@pytest.mark.parametrize("tasks", [2, 4, 8])
def test_equals_torchjd(tasks):
    aggregation = pytest.importorskip("torchjd.aggregation")
    g = gradients(tasks)
    torch.testing.assert_close(update(g), aggregation.IMTLG()(g), rtol=1e-8, atol=1e-10)


def test_weights_may_be_negative():
    g = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.9, -0.1, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    g[0, 1] = 0.02  # between the two that it resembles, and shorter steps would do for them
    g[0, 2] = 0.1
    weights = imtl_g_weights(g @ g.T)
    assert weights.min() < 0 and float(weights.sum()) == pytest.approx(1)


def test_permutation_and_scale():
    g, order = gradients(6), [3, 1, 5, 0, 2, 4]
    torch.testing.assert_close(imtl_g_weights(g @ g.T)[order], imtl_g_weights(g[order] @ g[order].T))
    for scale in (1e-12, 1e12):
        torch.testing.assert_close(update(scale * g), scale * update(g), rtol=1e-9, atol=1e-12 * scale)


def test_scales_between_tasks():
    scales = torch.tensor([1e12, 1.0, 1e-12, 1e6], dtype=torch.float64)
    g = gradients(4, seed=1)
    weights = imtl_g_weights(scales.unsqueeze(1) * (g @ g.T) * scales)
    y = torch.linalg.solve((g @ g.T) / g.norm(dim=1) / g.norm(dim=1).unsqueeze(1), torch.ones(4, dtype=torch.float64))
    wanted = y / g.norm(dim=1) / scales
    torch.testing.assert_close(weights, wanted / wanted.sum(), rtol=1e-9, atol=0)


def test_degenerate_gradients():
    g, other = gradients(1)[0], gradients(1, seed=1)[0]
    zero = torch.zeros_like(g)

    def weights(*rows):
        stacked = torch.stack(rows)
        return imtl_g_weights(stacked @ stacked.T).tolist()

    assert weights(g) == pytest.approx([1.0])
    assert weights(zero, zero) == [0.0, 0.0]
    assert weights(g, zero, 3 * g) == pytest.approx([0.75, 0.0, 0.25])
    assert weights(g, g, g) == pytest.approx([1 / 3] * 3)
    assert weights(g, -3 * g) == pytest.approx([0.75, 0.25])  # zero is the only impartial update
    assert weights(g, -g, other)[2] == pytest.approx(0, abs=1e-12)
    twice = torch.stack([g, g, other])
    projections = torch.stack([g / g.norm(), other / other.norm()]) @ update(twice)
    torch.testing.assert_close(projections[0], projections[1])
    assert weights(g, 2 * g) == pytest.approx(weights(g, 2 * g + 1e-5 * other), rel=1e-3)


def test_more_tasks_than_dimensions():
    g = gradients(8, size=3)
    weights = imtl_g_weights(g @ g.T)
    assert torch.isfinite(weights).all()
    assert (weights @ g).norm() < 1e-8 * (weights.abs() @ g.norm(dim=1))  # eight projections in three dimensions


def test_no_weights_where_they_cannot_sum_to_one():
    """By hand: y = C^-1 1 has y_1 = -1/4, y_2 = y_3 = 5/4 (times one factor), so lengths 1, 10, 10 give the sum 0."""
    a, b = 0.9, 0.75  # C = [[1, a, a], [a, 1, b], [a, b, 1]]
    cosines = torch.tensor([[1.0, a, a], [a, 1.0, b], [a, b, 1.0]], dtype=torch.float64)
    y = torch.linalg.solve(cosines, torch.ones(3, dtype=torch.float64))
    assert y[0] < 0 < y[1]
    lengths = torch.tensor([1.0, float(-2 * y[1] / y[0]), float(-2 * y[1] / y[0])], dtype=torch.float64)
    assert imtl_g_weights(cosines * lengths * lengths.unsqueeze(1)).tolist() == [0.0, 0.0, 0.0]


def test_combiner():
    g = gradients(3)
    combiner = build("combiner", "imtl-g")
    found = combiner.gradient_weights(g @ g.T, torch.ones(3), StepInfo(("a", "b", "c"), 0, 0, torch.Generator()))
    assert isinstance(combiner, IMTLG) and torch.equal(found, imtl_g_weights(g @ g.T)) and combiner.state_dict() == {}
