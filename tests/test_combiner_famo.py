"""FAMO: golden values, against autograd and torchjd, absences, checkpoints, training."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from mtk import ConfigError, MTKError, StepInfo, build, combine
from mtk_combiners.famo import FAMO, famo_gradient, famo_weights


def info(tasks):
    return StepInfo(tuple(tasks), 0, 0, torch.Generator())


def losses(steps, tasks, seed=0):
    """[step, before or after, T] float64."""
    return torch.rand(steps, 2, tasks, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.05


def test_golden_value():
    """By hand: z = (1/2, 1/2), c = 1 / (1/2 + 1/8) = 8/5; d = (log 2, 0), delta = log 2 / 4 (1, -1)."""
    combiner, before = FAMO(lr=2.0, gamma=0.5), torch.tensor([1.0, 4.0])
    assert combiner.loss_weights(before, info("ab")).tolist() == pytest.approx([0.8, 0.2])
    combiner.after_step(torch.tensor([0.5, 4.0]), info("ab"))
    first = math.log(2) / 2
    assert combiner.state_dict()["logits"] == pytest.approx({"a": -first, "b": first})
    weights = combiner.loss_weights(torch.ones(2), info("ab")).tolist()
    assert weights == pytest.approx([1 / (1 + 2), 2 / (1 + 2)])  # softmax of -+ log(2) / 2
    combiner.after_step(torch.ones(2), info("ab"))  # nothing moved: only the decay, by lr * gamma = 1
    assert combiner.state_dict()["logits"] == pytest.approx({"a": 0, "b": 0})


def test_delta_is_what_autograd_says():
    logits, (before, after) = torch.randn(4, dtype=torch.float64, requires_grad=True), losses(1, 4)[0]
    change = before.log() - after.log()
    expected = torch.autograd.grad(logits.softmax(0), logits, grad_outputs=change)[0]
    torch.testing.assert_close(famo_gradient(logits.detach(), before, after), expected)


def test_equals_torchjd_with_plain_steps():
    scalarization = pytest.importorskip("torchjd.scalarization")
    theirs, ours = scalarization.FAMO(3).double(), FAMO(lr=0.7, gamma=0.01)
    theirs._optimizer = torch.optim.SGD([theirs._w], lr=0.7, weight_decay=0.01)  # in place of its Adam
    for before, after in losses(20, 3):
        values = before.clone().requires_grad_()
        theirs(values).backward()
        torch.testing.assert_close(ours.loss_weights(before, info("abc")), values.grad, rtol=1e-5, atol=1e-7)
        theirs.update(after)
        ours.after_step(after, info("abc"))
        torch.testing.assert_close(
            torch.tensor(list(ours.state_dict()["logits"].values())).double(), theirs._w.detach(), rtol=1e-4, atol=1e-6
        )


def test_properties_of_the_weights():
    logits, (x, _) = torch.tensor([0.3, -1.0, 0.0], dtype=torch.float64), losses(1, 3)[0]
    weights = famo_weights(logits, x)
    assert float(weights.sum()) == pytest.approx(1)
    torch.testing.assert_close(famo_weights(logits, 1e6 * x), weights)
    own = torch.tensor([1.0, 100.0, 1e-3], dtype=torch.float64)  # one task's scale is divided out of weight times loss
    ratio = famo_weights(logits, own * x) * own
    torch.testing.assert_close(ratio / ratio.sum(), weights)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(famo_weights(logits[order], x[order]), weights[order])
    assert famo_weights(logits[:1], x[:1]).tolist() == [1]
    assert famo_weights(logits, torch.tensor([0.0, 1.0, 1.0]).double())[0] == 0
    assert famo_weights(logits, torch.zeros(3).double()).tolist() == [0, 0, 0]
    assert famo_weights(torch.zeros(2), torch.tensor([1e-40, 1e-30])).isfinite().all()


def test_absent_and_unlabelled_tasks_keep_their_logits():
    combiner = FAMO(lr=1.0, gamma=0.1)
    for before, after in losses(3, 3):
        combiner.loss_weights(before, info("abc"))
        combiner.after_step(after, info("abc"))
    kept = combiner.state_dict()["logits"]
    combiner.loss_weights(torch.tensor([1.0, 0.0, 1.0]), info("cbd"))
    combiner.after_step(torch.tensor([0.5, 0.0, 0.9]), info("cbd"))
    now = combiner.state_dict()["logits"]
    assert now["a"] == kept["a"] and now["b"] == kept["b"] and now["c"] != kept["c"] and now["d"] != 0
    combiner.loss_weights(torch.zeros(1), info("a"))
    combiner.after_step(torch.zeros(1), info("a"))
    combiner.loss_weights(torch.ones(2), info("ac"))
    combiner.after_step(torch.tensor([torch.inf, 0.0]), info("ac"))
    assert all(math.isfinite(x) for x in combiner.state_dict()["logits"].values())
    alone = FAMO(lr=1.0)
    alone.loss_weights(torch.ones(1), info("a"))
    alone.after_step(torch.tensor([0.1]), info("a"))
    assert alone.state_dict()["logits"] == {"a": 0}  # one task: nothing to weigh


def test_the_order_of_tasks_does_not_matter():
    one, other = FAMO(lr=1.0), FAMO(lr=1.0)
    for before, after in losses(4, 3):
        w = one.loss_weights(before, info("abc")), other.loss_weights(before.flip(0), info("cba"))
        torch.testing.assert_close(w[0].flip(0), w[1])
        one.after_step(after, info("abc"))
        other.after_step(after.flip(0), info("cba"))


def test_a_checkpoint_goes_on_bit_for_bit():
    def go(combiner, steps):
        found = []
        for before, after in steps:
            found.append(combiner.loss_weights(before.float(), info("ab")))
            combiner.after_step(after.float(), info("ab"))
        return found

    steps, whole, second = losses(6, 2), FAMO(lr=1.0), FAMO(lr=1.0)
    go(whole, steps[:3])
    second.load_state_dict(copy.deepcopy(whole.state_dict()))
    assert all(map(torch.equal, go(whole, steps[3:]), go(second, steps[3:])))


def test_in_training_the_lagging_task_gets_more():
    """Two quadratics of like value, one of them flat: its logarithm falls slowly until FAMO favours it."""
    p, combiner = torch.nn.Parameter(torch.tensor([1.0, 1.0])), FAMO(lr=5.0, gamma=0.0)

    def both():
        return {"steep": p[0] ** 2 + 0.1, "flat": 0.2 * p[1] ** 2 + 0.9}

    optimizer = torch.optim.SGD([p], lr=0.05)
    for _ in range(10):
        optimizer.zero_grad()
        before = both()
        combine(before, [p], combiner)
        optimizer.step()
        combiner.after_step(torch.stack(list(both().values())).detach(), info(before))
    logits = combiner.state_dict()["logits"]
    assert logits["flat"] > 0.1 > -0.1 > logits["steep"]


def test_what_is_wrong_is_said():
    with pytest.raises(ConfigError, match="lr: expected a finite number above 0"):
        build("combiner", "famo", lr=0)
    with pytest.raises(ConfigError, match="gamma: expected a finite number from 0 on"):
        build("combiner", "famo", gamma=-1)
    combiner = FAMO()
    with pytest.raises(MTKError, match="follows no step"):
        combiner.after_step(torch.ones(1), info("a"))
    combiner.loss_weights(torch.tensor([1.0, -2.0]), info("ab"))
    with pytest.raises(MTKError, match="found -2 of task 'b'"):
        combiner.after_step(torch.ones(2), info("ab"))
