"""GradDrop: golden values, the algorithm element by element, its expectation, and TorchJD's."""

from __future__ import annotations

import pytest
import torch

from mtk import ConfigError, StepInfo, build, combine
from mtk_combiners.graddrop import GradDrop, graddrop
from tests.test_mtk_combiners import gradients, seeded


def info(tasks, seed=0):
    return StepInfo(tuple("abcdefgh"[:tasks]), 0, 0, seeded(seed))


def directly(g, uniform, leak):
    """Lines 10 to 15 of algorithm 1, an element and a task at a time."""
    update = torch.zeros_like(g[0])
    for k in range(g.shape[1]):
        purity = 0.5 * (1 + g[:, k].sum() / g[:, k].abs().sum())
        for i in range(len(g)):
            kept = (purity > uniform[k] and g[i, k] > 0) or (purity < uniform[k] and g[i, k] < 0)
            update[k] += (leak[i] + (1 - leak[i]) * kept) * g[i, k]
    return update


def test_golden_values():
    g = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])  # purities 0.6, 1 and 1
    assert graddrop(g, torch.full((3,), 0.5)).tolist() == [6, 2, 2]
    assert graddrop(g, torch.full((3,), 0.7)).tolist() == [-4, 2, 2]
    leak = torch.tensor([0.5, 0.25])
    assert graddrop(g, torch.full((3,), 0.5), leak).tolist() == [4, 2, 2]
    assert graddrop(g, torch.full((3,), 0.7), leak).tolist() == [-2.5, 2, 2]


@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_it_equals_the_algorithm(tasks):
    g, uniform, leak = gradients(tasks), torch.rand(50, generator=seeded(1)), torch.rand(tasks, generator=seeded(2))
    torch.testing.assert_close(graddrop(g, uniform, leak.double()), directly(g, uniform, leak.double()))
    torch.testing.assert_close(graddrop(g, uniform), directly(g, uniform, torch.zeros(tasks)))


def test_its_expectation_is_the_sum():
    g, places = gradients(3, size=4), (torch.arange(10000) + 0.5) / 10000
    mean = torch.stack([graddrop(g, u.expand(4)) for u in places]).mean(0)
    torch.testing.assert_close(mean, g.sum(0), rtol=0, atol=1e-3 * float(g.abs().max()))


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_it_scales_with_the_losses(scale):
    g, uniform = gradients(4), torch.rand(50, generator=seeded())
    torch.testing.assert_close(graddrop(scale * g, uniform) / scale, graddrop(g, uniform), rtol=1e-12, atol=0)


def test_tasks_may_change_places():
    g, order = gradients(4), torch.tensor([2, 0, 3, 1])
    uniform, leak = torch.rand(50, generator=seeded()), torch.rand(4, dtype=torch.float64, generator=seeded())
    torch.testing.assert_close(graddrop(g[order], uniform, leak[order]), graddrop(g, uniform, leak))


def test_degenerate_gradients():
    g = gradients(1)
    uniform = torch.rand(50, generator=seeded())
    ends = torch.tensor([0.0, 1 - 2**-24]).repeat(25)  # the least and the most that is drawn
    for drawn in (uniform, ends):
        assert torch.equal(graddrop(g, drawn), g[0])
        assert torch.equal(graddrop(g.repeat(4, 1), drawn), 4 * g[0])
    assert not graddrop(torch.zeros(3, 50), uniform).any()
    opposed = graddrop(torch.cat([g, -g]), uniform)
    assert torch.equal(opposed.abs(), g[0].abs()) and (opposed == g[0]).any() and (opposed == -g[0]).any()
    lengths = torch.tensor([[1e-12], [1e12]], dtype=torch.float64)
    assert graddrop(gradients(2) * lengths, uniform).isfinite().all()


def test_the_generator_settles_it():
    g, combiner = gradients(3).float(), GradDrop()
    assert torch.equal(combiner.combine(g, info(3)), combiner.combine(g, info(3)))
    assert not torch.equal(combiner.combine(g, info(3)), combiner.combine(g, info(3, seed=1)))
    step = info(3)
    assert not torch.equal(combiner.combine(g, step), combiner.combine(g, step))  # each parameter its own draws
    kept = g.clone()
    combiner.combine(g, step)
    assert torch.equal(g, kept)


def test_leaks_by_task():
    g = gradients(3).float()
    uniform = torch.rand(50, generator=seeded())
    found = GradDrop(leak=0.5, per_task={"b": 0.0}).combine(g, info(3))
    torch.testing.assert_close(found, graddrop(g, uniform, torch.tensor([0.5, 0.0, 0.5])))
    torch.testing.assert_close(GradDrop(leak=1.0).combine(g, info(3)), g.sum(0))


def test_through_the_engine():
    p, q = torch.nn.Parameter(torch.zeros(200)), torch.nn.Parameter(torch.zeros(()))
    combine([p.sum() + q, q - 3 * p.sum()], [p, q], "graddrop:leak=0", generator=seeded())
    assert set(p.grad.tolist()) == {1.0, -3.0} and q.grad == 2
    assert 20 < int((p.grad > 0).sum()) < 80  # a quarter


def test_options():
    assert isinstance(build("combiner", "graddrop"), GradDrop)
    with pytest.raises(ConfigError, match="leak: expected a number from 0 to 1, found 2"):
        GradDrop(leak=2)
    with pytest.raises(ConfigError, match="per_task: sst: expected a number from 0 to 1, found -1"):
        GradDrop(per_task={"sst": -1})


@pytest.mark.parametrize("leak", [None, [0.0, 0.5, 1.0]])
def test_it_agrees_with_torchjd(leak):
    aggregation = pytest.importorskip("torchjd.aggregation")
    g = gradients(3, size=500).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = aggregation.GradDrop(leak=None if leak is None else torch.tensor(leak))(g)
    ours = GradDrop(per_task=dict(zip("abc", leak or [0.0] * 3, strict=True))).combine(g, info(3))
    torch.testing.assert_close(ours, theirs)
