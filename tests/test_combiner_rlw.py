"""Random loss weights."""

from __future__ import annotations

import math

import pytest
import torch

from mtk import StepInfo, combine
from mtk_combiners.rlw import RLW, rlw_weights


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def info(*tasks, generator):
    return StepInfo(tasks, 0, 0, generator)


def test_golden_value_is_the_softmax_of_the_draws():
    draws = torch.randn(3, generator=seeded(4)).tolist()
    total = sum(math.exp(x) for x in draws)
    assert rlw_weights(3, seeded(4)).tolist() == pytest.approx([math.exp(x) / total for x in draws])


def test_equals_torchjd():
    scalarization = pytest.importorskip("torchjd.scalarization")
    torch.manual_seed(9)
    values = torch.tensor([0.3, 2.0, 1.0, 5.0], requires_grad=True)
    scalarization.Random()(values).backward()
    torch.testing.assert_close(rlw_weights(4, seeded(9)), values.grad)


def test_properties():
    generator, combiner = seeded(), RLW()
    drawn = torch.stack(
        [combiner.loss_weights(torch.full((3,), torch.nan), info(*"abc", generator=generator)) for _ in range(2000)]
    )
    torch.testing.assert_close(drawn.sum(1), torch.ones(2000))
    assert (drawn > 0).all() and not torch.equal(drawn[0], drawn[1])
    assert (drawn.mean(0) - 1 / 3).abs().max() < 0.02  # fair, so that tasks may be permuted
    assert combiner.loss_weights(torch.ones(1), info("b", generator=generator)).tolist() == [1]
    assert combiner.needs == "nothing" and combiner.state_dict() == {}
    assert (
        combiner.loss_weights(torch.zeros(2, dtype=torch.float64), info(*"ab", generator=generator)).dtype
        == torch.float64
    )


def test_the_generator_settles_it():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = rlw_weights(5, seeded(1))
        torch.manual_seed(1)
        assert torch.equal(rlw_weights(5, seeded(1)), first)


def test_training_with_it_reaches_the_minimum_of_agreeing_tasks():
    p, generator = torch.nn.Parameter(torch.tensor([3.0, -2.0])), seeded()
    for _ in range(100):
        p.grad = None
        combine([p.square().sum(), 2 * p.square().sum()], [p], "rlw", generator=generator)
        p.data -= 0.1 * p.grad
    assert p.abs().max() < 1e-3
