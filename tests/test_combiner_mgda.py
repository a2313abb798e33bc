"""MGDA: golden values, the min-norm point's conditions, all faces of the hull tried, and TorchJD's Frank-Wolfe."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from mtk import MTKError, StepInfo, build
from mtk_combiners.mgda import MGDA, mgda_weights, points_of

torch.set_num_threads(1)


def gradients(tasks, size=50, seed=0):
    """[T, P] float64 with plenty of conflicts, of different lengths."""
    g = torch.randn(tasks, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (g - 0.5 * g.mean(0)) * torch.logspace(-1, 1, tasks, dtype=torch.float64).unsqueeze(1)


def update(g):
    return mgda_weights(g @ g.T) @ g


def by_enumeration(g):
    """The min-norm point in full gradient space: the shortest of the affine hulls' that are inside the convex hull."""
    best = None
    for size in range(1, len(g) + 1):
        for rows in map(list, combinations(range(len(g)), size)):
            a = np.linalg.pinv(np.block([[g[rows] @ g[rows].T, np.ones((size, 1))], [np.ones((1, size)), 0]]))[:-1, -1]
            if (a >= -1e-9).all() and (best is None or np.linalg.norm(a @ g[rows]) < np.linalg.norm(best)):
                best = a @ g[rows]
    return torch.from_numpy(best)


def optimal(g, weights, tolerance=1e-10):
    """Fritz John: no task's gradient has less along the min-norm point than the point has of itself."""
    x = weights @ g
    assert (weights >= 0).all() and abs(float(weights.sum()) - 1) < 1e-12
    assert (g @ x >= x @ x - tolerance * g.norm(dim=1) * x.norm()).all()


def test_golden_values():
    """By hand: orthogonal ones weigh as 1 / length^2; a long one at 45 degrees is left out."""
    assert mgda_weights(torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64))).tolist() == pytest.approx([0.8, 0.2])
    g = torch.tensor([[1.0, 0.0], [2.0, 2.0]], dtype=torch.float64)
    assert mgda_weights(g @ g.T).tolist() == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize(("tasks", "size"), [(2, 50), (3, 50), (5, 50), (5, 3), (6, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_min_norm_point_in_gradient_space(tasks, size, seed):
    g = gradients(tasks, size, seed)
    torch.testing.assert_close(update(g), by_enumeration(g.numpy()), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("tasks", [2, 8, 32])
def test_no_task_is_hurt(tasks):
    g = gradients(tasks, size=64)
    optimal(g, mgda_weights(g @ g.T))


@pytest.mark.parametrize("tasks", [2, 4, 8])
def test_torchjd_agrees(tasks):
    aggregation = pytest.importorskip("torchjd.aggregation")
    g = gradients(tasks)
    reference = aggregation.MGDA(epsilon=1e-9, max_iters=20000)(g)
    assert update(g).norm() <= reference.norm() * (1 + 1e-12)  # theirs approaches the minimum from above
    torch.testing.assert_close(update(g), reference, rtol=1e-2, atol=1e-2 * float(reference.norm()))


def test_permutation_and_scale():
    g, order = gradients(6), [3, 1, 5, 0, 2, 4]
    torch.testing.assert_close(update(g[order]), update(g), rtol=1e-9, atol=1e-12)
    for scale in (1e-12, 1e12):
        torch.testing.assert_close(update(scale * g), scale * update(g), rtol=1e-9, atol=1e-12 * scale)


@pytest.mark.parametrize("seed", range(3))
def test_scales_between_tasks(seed):
    scales = torch.tensor([1e12, 1.0, 1e-12, 1e6], dtype=torch.float64)
    weights = mgda_weights(torch.diag(scales**2))
    parts, wanted = weights * scales, scales**-1 / (scales**-2).sum()
    torch.testing.assert_close(parts, wanted, rtol=1e-12, atol=1e-27)  # to rounding in the update, 1e-12 long
    g = gradients(4, seed=seed) * scales.unsqueeze(1)
    optimal(g, mgda_weights(g @ g.T))


def test_degenerate_gradients():
    g = gradients(1)[0]
    zero = torch.zeros_like(g)
    assert mgda_weights(torch.tensor([[3.0]], dtype=torch.float64)).tolist() == [1.0]
    torch.testing.assert_close(update(torch.stack([g, g, g])), g)
    torch.testing.assert_close(update(torch.stack([3 * g, g, 2 * g])), g)
    assert update(torch.stack([g, -2 * g])).abs().max() < 1e-12
    assert update(torch.stack([g, -2 * g, gradients(1, seed=1)[0]])).abs().max() < 1e-12
    assert mgda_weights(torch.zeros(2, 2, dtype=torch.float64)).tolist() == [0.5, 0.5]
    one = torch.stack([g, zero, -g])
    assert mgda_weights(one @ one.T).tolist() == [0.0, 1.0, 0.0]  # one task has arrived: Pareto-stationary
    crowded = gradients(12, size=3)
    assert update(crowded).norm() < 1e-9 * crowded.norm()


def test_points_keep_the_gramian():
    scales = torch.tensor([[1e12], [1.0], [1e-12]], dtype=torch.float64)
    g = gradients(3) * scales
    points = torch.from_numpy(points_of(g @ g.T))
    torch.testing.assert_close(points.T @ points / scales / scales.T, g @ g.T / scales / scales.T, rtol=1e-9, atol=1e-9)
    g[1] = g[0]
    assert points_of(g @ g.T).shape == (2, 3)


def weights_with(normalize, g, losses):
    info = StepInfo(("a", "b", "c")[: len(g)], 0, 0, torch.Generator())
    return MGDA(normalize=normalize).gradient_weights(g @ g.T, torch.tensor(losses), info)


@pytest.mark.parametrize("normalize", ["none", "l2", "loss", "loss+"])
def test_normalisation_divides_before_the_search(normalize):
    g, losses = gradients(3), [0.5, 2.0, 4.0]
    lengths, scales = g.norm(dim=1), torch.tensor(losses, dtype=torch.float64)
    divisors = {"none": torch.ones(3), "l2": lengths, "loss": scales, "loss+": lengths * scales}[normalize]
    divided = g / divisors.unsqueeze(1)
    found = weights_with(normalize, g, losses)
    torch.testing.assert_close(found, mgda_weights(divided @ divided.T), rtol=1e-9, atol=1e-12)
    optimal(divided, found)


def test_normalisation_at_its_limits():
    g = gradients(3)
    torch.testing.assert_close(weights_with("l2", 1e6 * g, [1.0] * 3), weights_with("l2", g, [1.0] * 3))
    assert weights_with("loss", g, [0.0, 1.0, 1.0])[0] < 1e-6  # its divided gradient is endless
    torch.testing.assert_close(weights_with("loss", g, [0.0] * 3), weights_with("none", g, [0.0] * 3))
    g[1] = 0
    assert weights_with("loss+", g, [1.0, 0.0, 1.0]).tolist() == [0.0, 1.0, 0.0]


def test_options_and_losses_are_checked():
    assert build("combiner", "mgda").normalize == "none"
    assert build("combiner", "mgda", normalize="loss+").normalize == "loss+"
    with pytest.raises(MTKError, match="normalize"):
        build("combiner", "mgda", normalize="l1")
    with pytest.raises(ValueError, match="expected none, l2, loss or loss"):
        MGDA(normalize="l1")
    with pytest.raises(MTKError, match="task 'b' has -1"):
        weights_with("loss", gradients(3), [1.0, -1.0, 2.0])
