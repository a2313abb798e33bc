"""DWA: golden values, epochs, absences, checkpoints."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from mtk import ConfigError, StepInfo, build, combine
from mtk_combiners.dwa import DWA, dwa_weights


def info(tasks, epoch):
    return StepInfo(tuple(tasks), 0, epoch, torch.Generator())


def run(combiner, tasks, epochs):
    """epochs: a list of lists of losses [T]. The weights of every step."""
    return [
        [combiner.loss_weights(torch.tensor(losses), info(tasks, epoch)).tolist() for losses in steps]
        for epoch, steps in enumerate(epochs)
    ]


def test_golden_value():
    """Means 2 -> 1 and 2 -> 2: the rates are 1/2 and 1."""
    found = run(DWA(temperature=2), "ab", [[[1.0, 2.0], [3.0, 2.0]], [[1.0, 2.0]], [[9.0, 9.0], [0.0, 1.0]]])
    assert found[0] == [[1, 1], [1, 1]] and found[1] == [[1, 1]]
    a, b = math.exp(0.25), math.exp(0.5)
    assert found[2][0] == pytest.approx([2 * a / (a + b), 2 * b / (a + b)])
    assert found[2][1] == found[2][0]  # the same throughout the epoch


def test_equals_torchjd():
    scalarization = pytest.importorskip("torchjd.scalarization")
    epochs = 1 + torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(0))  # [epoch, step, T]
    ours, theirs = DWA(temperature=1.5), scalarization.DWA(temperature=1.5)
    for epoch, steps in enumerate(epochs):
        for losses in steps:
            values = losses.clone().requires_grad_()
            theirs(values).backward()
            torch.testing.assert_close(ours.loss_weights(losses, info("abcd", epoch)), values.grad)
        theirs.step()


def test_properties():
    rates = torch.tensor([0.3, 0.9, 1.4])
    weights = dwa_weights(rates, 2.0)
    assert float(weights.sum()) == pytest.approx(3) and weights.argsort().tolist() == [0, 1, 2]
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(dwa_weights(rates[order], 2.0), weights[order])
    torch.testing.assert_close(dwa_weights(rates, 1e6), torch.ones(3), rtol=1e-5, atol=0)
    assert dwa_weights(rates, 0.01).isfinite().all()
    assert dwa_weights(rates[:1], 2.0).tolist() == [1]
    steps = [[[1.0, 5.0]], [[0.5, 4.0]], [[0.4, 3.0]]]
    scaled = [[[1000 * a, b] for a, b in epoch] for epoch in steps]
    assert run(DWA(), "ab", scaled)[2][0] == pytest.approx(run(DWA(), "ab", steps)[2][0])


def test_absent_tasks_and_losses_without_a_mean():
    combiner = DWA()
    run(combiner, "abc", [[[1.0, 1.0, 1.0]], [[0.5, 1.0, 0.0]]])  # c has no label in epoch 1
    both = combiner.loss_weights(torch.ones(2), info("ab", 2))
    assert float(both.sum()) == pytest.approx(2)
    assert combiner.loss_weights(torch.ones(1), info("b", 2)).tolist() == [1]
    a, b, c, d = combiner.loss_weights(torch.ones(4), info("abcd", 2)).tolist()
    assert a < b and b == c == d  # no rate yet: as if it were 1
    swapped = combiner.loss_weights(torch.ones(2), info("ba", 2))
    torch.testing.assert_close(swapped.flip(0), both)
    assert combiner.loss_weights(torch.ones(2), info("ab", 9)).tolist() == [1, 1]  # the epochs before are not known


def test_steps_without_labels_do_not_count():
    with_zero = run(DWA(), "ab", [[[2.0, 1.0], [0.0, 1.0]], [[1.0, 1.0]], [[1.0, 1.0]]])
    without = run(DWA(), "ab", [[[2.0, 1.0]], [[1.0, 1.0]], [[1.0, 1.0]]])
    assert with_zero[2] == without[2]


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5])
def test_a_checkpoint_goes_on_bit_for_bit(cut):
    losses = torch.rand(6, 2, generator=torch.Generator().manual_seed(3))  # two steps an epoch
    whole, first, second = DWA(), DWA(), DWA()
    wanted = [whole.loss_weights(x, info("ab", i // 2)) for i, x in enumerate(losses)]
    for i in range(cut):
        first.loss_weights(losses[i], info("ab", i // 2))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for i in range(cut, 6):
        assert torch.equal(second.loss_weights(losses[i], info("ab", i // 2)), wanted[i])
    assert second.state_dict() == whole.state_dict()


def test_in_training_the_slower_task_gets_more():
    p = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    combiner, optimizer = DWA(temperature=0.5), torch.optim.SGD([p], lr=0.1)
    for epoch in range(4):
        for _ in range(3):
            optimizer.zero_grad()
            report = combine({"fast": p[0] ** 2, "slow": 0.1 * p[1] ** 2}, [p], combiner, epoch=epoch)
            optimizer.step()
    fast, slow = report.weights.tolist()
    assert fast < 1 < slow and fast + slow == pytest.approx(2)


@pytest.mark.parametrize("temperature", [0, -1, float("inf")])
def test_temperature(temperature):
    with pytest.raises(ConfigError, match="temperature: expected a finite number above 0"):
        build("combiner", "dwa", temperature=temperature)
