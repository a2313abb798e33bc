"""Aligned-MTL: a golden value, the aligned gradients by a singular value decomposition, and TorchJD's."""

from __future__ import annotations

import pytest
import torch

from mtk import MTKError, StepInfo, build
from mtk_combiners.aligned_mtl import AlignedMTL, aligned_mtl_weights

torch.set_num_threads(1)
SCALES = ["min", "median", "rmse"]


def gradients(tasks, size=50, seed=0):
    """[T, P] float64 with plenty of conflicts, of different lengths."""
    g = torch.randn(tasks, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (g - 0.5 * g.mean(0)) * torch.logspace(-1, 1, tasks, dtype=torch.float64).unsqueeze(1)


def update(g, scale="min"):
    return aligned_mtl_weights(g @ g.T, scale) @ g


def aligned(g, scale="min"):
    """The aligned gradients [T, P], from J = U S W^T: the nearest orthogonal frame U W^T in one length."""
    u, s, w = torch.linalg.svd(g, full_matrices=False)
    kept = s > 1e-7 * s[0]
    length = {"min": s[kept][-1], "median": s[kept].median(), "rmse": s[kept].square().mean().sqrt()}[scale]
    return length * u[:, kept] @ w[kept]


def test_golden_value():
    """By hand: orthogonal gradients all come to the shortest's length."""
    gram = torch.diag(torch.tensor([1.0, 4.0, 16.0], dtype=torch.float64))
    assert aligned_mtl_weights(gram).tolist() == pytest.approx([1.0, 0.5, 0.25])
    assert aligned_mtl_weights(gram, "median").tolist() == pytest.approx([2.0, 1.0, 0.5])
    assert aligned_mtl_weights(gram, "rmse").tolist() == pytest.approx([7**0.5, 7**0.5 / 2, 7**0.5 / 4])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("tasks", [2, 3, 8, 32])
def test_equals_the_alignment_in_gradient_space(tasks, scale):
    g = gradients(tasks, size=64)
    frame = aligned(g, scale)
    torch.testing.assert_close(update(g, scale), frame.sum(0), rtol=1e-6, atol=1e-8)
    gram = frame @ frame.T  # no conflict and no dominance are left
    torch.testing.assert_close(gram, gram[0, 0] * torch.eye(tasks, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("tasks", [2, 4, 8])
def test_equals_torchjd(tasks, scale):
    aggregation = pytest.importorskip("torchjd.aggregation")
    g = gradients(tasks)
    reference = tasks * aggregation.AlignedMTL(scale_mode=scale)(g)  # theirs averages
    torch.testing.assert_close(update(g, scale), reference, rtol=1e-7, atol=1e-9)


def test_permutation_and_scale():
    g, order = gradients(6), [3, 1, 5, 0, 2, 4]
    torch.testing.assert_close(aligned_mtl_weights(g @ g.T)[order], aligned_mtl_weights(g[order] @ g[order].T))
    for scale in (1e-12, 1e12):
        torch.testing.assert_close(update(scale * g), scale * update(g), rtol=1e-9, atol=1e-12 * scale)


@pytest.mark.parametrize("scale", SCALES)
def test_scales_between_tasks(scale):
    """As far apart as float64 knows the smaller one; beyond that it is left out, and nothing becomes infinite."""
    g = torch.diag(torch.tensor([1e6, 1.0], dtype=torch.float64))
    torch.testing.assert_close(update(g), torch.ones(2, dtype=torch.float64))
    apart = gradients(3) * torch.tensor([[1e12], [1.0], [1e-12]], dtype=torch.float64)
    weights = aligned_mtl_weights(apart @ apart.T, scale)
    assert torch.isfinite(weights).all()
    torch.testing.assert_close(weights @ apart, apart[0], rtol=1e-6, atol=1e2)


@pytest.mark.parametrize("scale", SCALES)
def test_degenerate_gradients(scale):
    g, other = gradients(1)[0], gradients(1, seed=1)[0]
    zero = torch.zeros_like(g)
    assert aligned_mtl_weights(torch.tensor([[3.0]], dtype=torch.float64), scale).tolist() == pytest.approx([1.0])
    assert aligned_mtl_weights(torch.zeros(3, 3, dtype=torch.float64), scale).tolist() == [1.0] * 3
    torch.testing.assert_close(update(torch.stack([g, g, g]), scale), 3 * g)
    assert update(torch.stack([g, -g]), scale).norm() < 1e-12 * g.norm()
    torch.testing.assert_close(update(torch.stack([g, zero, other]), scale), update(torch.stack([g, other]), scale))
    for rows in (torch.stack([g, 2 * g, other]), gradients(8, size=3)):
        torch.testing.assert_close(update(rows, scale), aligned(rows, scale).sum(0), rtol=1e-6, atol=1e-8)


def test_combiner_and_option():
    g = gradients(3)
    info = StepInfo(("a", "b", "c"), 0, 0, torch.Generator())
    found = AlignedMTL(scale="rmse").gradient_weights(g @ g.T, torch.ones(3), info)
    assert torch.equal(found, aligned_mtl_weights(g @ g.T, "rmse"))
    assert build("combiner", "aligned-mtl").scale == "min"
    with pytest.raises(MTKError, match="scale"):
        build("combiner", "aligned-mtl", scale="max")
    with pytest.raises(ValueError, match="expected min, median or rmse"):
        AlignedMTL(scale="max")
