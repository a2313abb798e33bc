"""The built-in combiners: golden values, properties, and direct implementations in full gradient space."""

from __future__ import annotations

import pytest
import torch

from mtk import GradientCombiner, StepInfo, build, combine, registered
from mtk_combiners.mean import Mean
from mtk_combiners.pcgrad import PCGrad, pcgrad_weights
from mtk_combiners.sum import Sum

torch.set_num_threads(1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gradients(tasks, size=50, seed=0):
    """[T, P] float64 with plenty of conflicts, of different lengths."""
    g = torch.randn(tasks, size, dtype=torch.float64, generator=seeded(seed))
    return (g - 0.5 * g.mean(0)) * torch.logspace(-1, 1, tasks, dtype=torch.float64).unsqueeze(1)


def pcgrad_directly(g, generator):
    """Algorithm 1 on the vectors themselves, with the orders drawn as `pcgrad_weights` draws them."""
    total = torch.zeros_like(g[0])
    for i in range(len(g)):
        projected = g[i].clone()
        others = [j for j in range(len(g)) if j != i]
        for k in torch.randperm(len(others), generator=generator).tolist():
            other = g[others[k]]
            if projected @ other < 0:
                projected = projected - (projected @ other) / (other @ other) * other
        total += projected
    return total


def test_the_plugin_registers_its_combiners():
    known = registered("combiner")
    for name, kind in {"sum": Sum, "mean": Mean, "pcgrad": PCGrad}.items():
        assert known[name].plugin == "combiners"
        assert isinstance(build("combiner", name), kind)
    assert known["pcgrad"].paper == "arXiv 2001.06782"


def test_sum_and_mean_read_no_losses():
    info = StepInfo(("a", "b", "c", "d"), 0, 0, seeded())
    unread = torch.full((4,), torch.nan)
    assert Sum().loss_weights(unread, info).tolist() == [1, 1, 1, 1]
    assert Mean().loss_weights(unread, info).tolist() == [0.25] * 4
    assert Mean().loss_weights(unread[:1], StepInfo(("b",), 0, 0, seeded())).tolist() == [1]


def test_pcgrad_golden_value():
    g = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)  # by hand: g1' = (1/2, 1/2), g2' = (0, 1)
    weights = pcgrad_weights(g @ g.T, seeded())
    assert weights.tolist() == [2.0, 1.5]
    assert (weights @ g).tolist() == [0.5, 1.5]


@pytest.mark.parametrize("tasks", [2, 3, 5, 10])
@pytest.mark.parametrize("seed", range(4))
def test_pcgrad_equals_the_algorithm_on_full_gradients(tasks, seed):
    g = gradients(tasks, seed=seed)
    gram = g @ g.T
    assert (gram < 0).any()
    torch.testing.assert_close(
        pcgrad_weights(gram, seeded(7)) @ g, pcgrad_directly(g, seeded(7)), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("seed", range(20))
def test_pcgrad_leaves_no_conflict_between_two(seed):
    g = gradients(2, size=3, seed=seed)
    update = pcgrad_weights(g @ g.T, seeded()) @ g
    assert (g @ update >= -1e-12 * g.norm() ** 2).all()


def test_pcgrad_without_conflicts_is_the_sum():
    g = gradients(5).abs()
    assert pcgrad_weights(g @ g.T, seeded()).tolist() == [1.0] * 5


@pytest.mark.parametrize("scale", [1e-6, 1e6, 2.0**-40])
def test_pcgrad_knows_no_scale(scale):
    g = gradients(5)
    scaled = scale * g
    torch.testing.assert_close(
        pcgrad_weights(scaled @ scaled.T, seeded()), pcgrad_weights(g @ g.T, seeded()), rtol=1e-9, atol=0
    )


def test_pcgrad_through_the_engine_knows_no_scale():
    """Losses times 1e-6 in float32: the epsilon that others add to the squared norm would show here."""
    found = []
    for scale in (1.0, 1e-6):
        p = torch.nn.Parameter(gradients(1, seed=3)[0].float())
        rows = gradients(3).float()
        losses = [scale * ((rows[t] @ p) - t) ** 2 for t in range(3)]
        report = combine(losses, [p], "pcgrad", generator=seeded())
        assert report.conflicts
        found.append((report.weights, p.grad / scale))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=0)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-4)


def test_pcgrad_on_degenerate_gradients():
    g = gradients(1)[0]
    zero = torch.zeros_like(g)

    def weights(*rows):
        stacked = torch.stack(rows)
        return pcgrad_weights(stacked @ stacked.T, seeded())

    assert weights(g).tolist() == [1.0]
    assert weights(zero, zero).tolist() == [1.0, 1.0]
    assert weights(g, zero).tolist() == [1.0, 1.0]
    assert weights(g, g, g).tolist() == [1.0, 1.0, 1.0]
    opposite = torch.stack([g, -2 * g])
    assert (weights(g, -2 * g) @ opposite).abs().max() < 1e-12
    assert torch.isfinite(weights(g, -g, zero, g)).all()
    underflow = torch.tensor([[1.0, -1e-200], [-1e-200, 0.0]], dtype=torch.float64)  # the true norm is 1e-200
    assert pcgrad_weights(underflow, seeded()).tolist() == [1.0, 1.0]


def test_pcgrad_is_settled_by_the_generator():
    g = gradients(10)
    gram = g @ g.T
    assert torch.equal(pcgrad_weights(gram, seeded(1)), pcgrad_weights(gram, seeded(1)))
    generator = seeded(1)
    first, second = pcgrad_weights(gram, generator), pcgrad_weights(gram, generator)
    assert not torch.equal(first, second)  # the orders are fresh at every step


def test_pcgrad_changes_neither_its_input_nor_a_state():
    g = gradients(5)
    gram, combiner = g @ g.T, PCGrad()
    before = gram.clone()
    info = StepInfo(tuple("abcde"), 0, 0, seeded())
    weights = combiner.gradient_weights(gram, torch.ones(5), info)
    assert isinstance(combiner, GradientCombiner) and weights.shape == (5,) and weights.dtype == torch.float64
    assert torch.equal(gram, before) and combiner.state_dict() == {}
