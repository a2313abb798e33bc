"""GradVac: a golden value, the algorithm on whole gradients, its targets by task name, and TorchJD's own."""

from __future__ import annotations

import math

import pytest
import torch

from mtk import ConfigError, StepInfo, build
from mtk_combiners.gradvac import GradVac, gradvac_weights
from mtk_combiners.pcgrad import pcgrad_weights

torch.set_num_threads(1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gradients(tasks, size=50, seed=0):
    """[T, P] float64 with plenty of conflicts, of different lengths."""
    g = torch.randn(tasks, size, dtype=torch.float64, generator=seeded(seed))
    return (g - 0.5 * g.mean(0)) * torch.logspace(-1, 1, tasks, dtype=torch.float64).unsqueeze(1)


def zeros(tasks):
    return torch.zeros(tasks, tasks, dtype=torch.float64)


def directly(g, targets, beta, generator):
    """Algorithm 1 on the vectors themselves."""
    total, targets = torch.zeros_like(g[0]), targets.clone()
    for i in range(len(g)):
        mine = g[i].clone()
        others = [j for j in range(len(g)) if j != i]
        for k in torch.randperm(len(others), generator=generator).tolist():
            j = others[k]
            p, q = torch.cosine_similarity(mine, g[j], dim=0), targets[i, j].clone()
            if p < q:
                a, b = (1 - p**2).sqrt(), (1 - q**2).sqrt()
                mine = mine + mine.norm() * (q * a - p * b) / (g[j].norm() * b) * g[j]
            targets[i, j] = (1 - beta) * q + beta * p
        total += mine
    return total, targets


def test_golden_value():
    """By hand: 90 degrees apart, target 60: each gains 1/sqrt(3) of the other; then the targets move to 0 by half."""
    targets = torch.tensor([[0.0, 0.5], [0.5, 0.0]], dtype=torch.float64)
    weights, after = gradvac_weights(torch.eye(2, dtype=torch.float64), targets, 0.5, seeded())
    torch.testing.assert_close(weights, torch.full((2,), 1 + 1 / math.sqrt(3), dtype=torch.float64))
    assert after.tolist() == [[0.0, 0.25], [0.25, 0.0]]
    assert targets.tolist() == [[0.0, 0.5], [0.5, 0.0]]


@pytest.mark.parametrize("tasks", [2, 3, 8])
def test_equals_the_algorithm_on_full_gradients(tasks):
    targets = wanted = zeros(tasks)
    for step in range(4):
        g = gradients(tasks, seed=step)
        weights, targets = gradvac_weights(g @ g.T, targets, 0.3, seeded(step))
        update, wanted = directly(g, wanted, 0.3, seeded(step))
        torch.testing.assert_close(weights @ g, update, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(targets, wanted, rtol=1e-9, atol=1e-9)


def test_equals_torchjd():
    aggregation = pytest.importorskip("torchjd.aggregation")
    reference, targets = aggregation.GradVac(beta=0.3, eps=0.0), zeros(5)
    for step in range(4):
        g = gradients(5, seed=step)
        weights, targets = gradvac_weights(g @ g.T, targets, 0.3, seeded(step))
        with torch.random.fork_rng():
            torch.manual_seed(step)  # TorchJD draws its orders from the global generator, in the same way
            torch.testing.assert_close(weights @ g, reference(g), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_reaches_the_target(seed):
    g = gradients(2, seed=seed)
    targets = torch.tensor([[0.0, 0.6], [-1.0, 0.0]], dtype=torch.float64)  # the second is never raised
    update = gradvac_weights(g @ g.T, targets, 0.0, seeded())[0] @ g
    torch.testing.assert_close(
        torch.cosine_similarity(update - g[1], g[1], dim=0), torch.tensor(0.6, dtype=torch.float64)
    )


def test_without_memory_is_pcgrad():
    g = gradients(6)
    found = gradvac_weights(g @ g.T, zeros(6), 0.0, seeded(3))[0]
    torch.testing.assert_close(found, pcgrad_weights(g @ g.T, seeded(3)), rtol=1e-9, atol=1e-9)


def test_targets_follow_the_cosine_and_belong_to_names():
    g = gradients(3).abs()  # no conflicts: the cosines stay as they are
    gram, combiner = g @ g.T, GradVac(beta=0.5)
    cosines = gram / gram.diagonal().sqrt() / gram.diagonal().sqrt().unsqueeze(1)
    for step in range(40):
        combiner.gradient_weights(gram, torch.ones(3), StepInfo(("a", "b", "c"), step, 0, seeded()))
    kept = combiner.state_dict()["targets"]
    assert kept["a"]["c"] == pytest.approx(float(cosines[0, 2])) and "a" not in kept["a"]
    swapped = gram[[2, 0]][:, [2, 0]]  # another order, and b is absent
    weights = combiner.gradient_weights(swapped, torch.ones(2), StepInfo(("c", "a"), 40, 0, seeded()))
    torch.testing.assert_close(weights, torch.ones(2, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    assert combiner.state_dict()["targets"]["a"]["b"] == kept["a"]["b"]
    resumed = GradVac(beta=0.5)
    resumed.load_state_dict(combiner.state_dict())
    apart, info = torch.eye(3, dtype=torch.float64), StepInfo(("a", "b", "c"), 41, 0, seeded())
    found = resumed.gradient_weights(apart, torch.ones(3), info)
    assert (found > 1).all()  # orthogonal ones are drawn to where they were
    assert resumed.state_dict() != combiner.state_dict()


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_knows_no_scale(scale):
    g, targets = gradients(4), torch.full((4, 4), 0.2, dtype=torch.float64)
    wanted = gradvac_weights(g @ g.T, targets, 0.1, seeded())
    found = gradvac_weights(scale * g @ (scale * g).T, targets, 0.1, seeded())
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=0)


def test_scales_between_tasks():
    """The long gradient gains of the short one in proportion to its own length, the short one hardly of the long."""
    g, targets = gradients(2), torch.full((2, 2), 0.9, dtype=torch.float64)
    wanted = gradvac_weights(g @ g.T, targets, 0.1, seeded())
    apart = g * torch.tensor([[1e-12], [1e12]], dtype=torch.float64)
    found = gradvac_weights(apart @ apart.T, targets, 0.1, seeded())
    assert float(found[0][0]) == pytest.approx(1e24 * float(wanted[0][0] - 1)) and float(found[0][1]) == 1
    torch.testing.assert_close(found[1], wanted[1])


def test_degenerate_gradients():
    g = gradients(1)[0]
    zero = torch.zeros_like(g)

    def run(*rows, steps=3, beta=1.0):
        stacked = torch.stack(rows)
        targets = zeros(len(rows))
        for _ in range(steps):
            weights, targets = gradvac_weights(stacked @ stacked.T, targets, beta, seeded())
        assert torch.isfinite(weights).all() and (targets.abs() <= 1).all()
        return weights, targets

    assert run(g)[0].tolist() == [1.0]
    assert run(zero, zero)[0].tolist() == [1.0, 1.0]
    assert run(g, zero)[0].tolist() == [1.0, 1.0]
    torch.testing.assert_close(run(g, 2 * g)[0], torch.ones(2, dtype=torch.float64), rtol=1e-2, atol=1e-2)
    opposite = torch.stack([g, -2 * g])
    assert (run(g, -2 * g, steps=1)[0] @ opposite).abs().max() < 1e-12
    run(g, -g, zero, g)
    _, near = run(g, g, beta=1.0)  # a target of 1, and a gradient that turned away: bounded
    away = torch.stack([g, gradients(1, seed=1)[0]])
    assert gradvac_weights(away @ away.T, near, 1.0, seeded())[0].abs().max() < 1e5


def test_options():
    assert build("combiner", "gradvac").beta == 0.01
    assert build("combiner", "gradvac", beta="0.5").beta == 0.5
    with pytest.raises(ConfigError, match=r"from 0 to 1, found 1\.5"):
        build("combiner", "gradvac", beta=1.5)
    with pytest.raises(ValueError, match="beta: expected"):
        GradVac(beta=float("nan"))
