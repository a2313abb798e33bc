"""Uncertainty weighting: golden values, against autograd and torch's Adam, absences, checkpoints."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from mtk import ConfigError, StepInfo, build, combine
from mtk_combiners.uncertainty import Uncertainty, uncertainty_gradient, uncertainty_weights


def info(tasks):
    return StepInfo(tuple(tasks), 0, 0, torch.Generator())


def stream(steps, tasks, seed=0):
    return torch.rand(steps, tasks, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3 + 0.01


def test_golden_value():
    """By hand: s = 0 weighs 1/2; the gradients (1 - 4) / 2 and (1 - 1/2) / 2 have other signs, and Adam steps by lr."""
    combiner = Uncertainty(lr=0.1)
    assert combiner.loss_weights(torch.tensor([4.0, 0.5]), info("ab")).tolist() == [0.5, 0.5]
    assert uncertainty_gradient(torch.zeros(2), torch.tensor([4.0, 0.5])).tolist() == [-1.5, 0.25]
    assert combiner.log_variances == pytest.approx({"a": 0.1, "b": -0.1}, abs=1e-6)
    second = combiner.loss_weights(torch.tensor([4.0, 0.5]), info("ab")).tolist()
    assert second == pytest.approx([0.5 * math.exp(-0.1), 0.5 * math.exp(0.1)], abs=1e-6)


def test_equals_torchjd_with_adam():
    scalarization = pytest.importorskip("torchjd.scalarization")
    theirs, ours = scalarization.UW(3).double(), Uncertainty(lr=0.02)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.02)
    for losses in stream(50, 3):
        values = losses.clone().requires_grad_()
        optimizer.zero_grad()
        theirs(values).backward()
        torch.testing.assert_close(ours.loss_weights(losses, info("abc")), values.grad)
        optimizer.step()
    torch.testing.assert_close(torch.tensor(list(ours.log_variances.values())).double(), theirs.log_var.detach())


def test_the_closed_form_is_the_gradient_of_the_papers_objective():
    s, losses = torch.randn(4, dtype=torch.float64, requires_grad=True), stream(1, 4)[0]
    sigma = (s / 2).exp()
    objective = (losses / (2 * sigma**2) + sigma.log()).sum()  # equation 7
    torch.testing.assert_close(uncertainty_gradient(s.detach(), losses), torch.autograd.grad(objective, s)[0])
    torch.testing.assert_close(uncertainty_weights(losses.log()), 1 / (2 * losses))
    assert uncertainty_gradient(losses.log(), losses).abs().max() < 1e-15


def test_the_classification_form_is_another_start():
    """Equation 10's L / sigma^2 + log sigma, learned with Adam from sigma = 1."""
    s = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer, ours = torch.optim.Adam([s], lr=0.05), Uncertainty(lr=0.05, start=-math.log(2))
    for losses in stream(30, 2, seed=1):
        weights = (-s).exp()
        torch.testing.assert_close(ours.loss_weights(losses, info("ab")), weights.detach())
        optimizer.zero_grad()
        (weights * losses + s / 2).sum().backward()
        optimizer.step()


def test_weights_find_the_scale_of_each_loss():
    combiner = Uncertainty(lr=0.05)
    for _ in range(1500):
        weights = combiner.loss_weights(torch.tensor([100.0, 1.0, 0.01]), info("abc"))
    torch.testing.assert_close(weights, torch.tensor([0.005, 0.5, 50.0]), rtol=0.02, atol=0)


def test_permuted_absent_and_unlabelled_tasks():
    losses = stream(8, 3)
    one, other = Uncertainty(), Uncertainty()
    for x in losses:
        torch.testing.assert_close(one.loss_weights(x, info("abc")).flip(0), other.loss_weights(x.flip(0), info("cba")))
    before = copy.deepcopy(one.state_dict()["state"])
    assert one.loss_weights(losses[0, :1], info("a")).shape == (1,)
    one.loss_weights(torch.tensor([0.0, 2.0]), info("bd"))  # b has no labels, d is new
    after = one.state_dict()["state"]
    assert before["b"] == after["b"] and before["c"] == after["c"] and before["a"] != after["a"] and after["d"][3] == 1
    assert one.loss_weights(torch.zeros(3), info("abc")).isfinite().all()


def test_a_checkpoint_goes_on_bit_for_bit():
    losses = stream(10, 2).float()
    whole, second = Uncertainty(), Uncertainty()
    wanted = [whole.loss_weights(x, info("ab")) for x in losses[:5]]
    second.load_state_dict(copy.deepcopy(whole.state_dict()))
    for x in losses[5:]:
        assert torch.equal(second.loss_weights(x, info("ab")), whole.loss_weights(x, info("ab")))
    assert second.state_dict() == whole.state_dict() and not torch.equal(wanted[0], wanted[4])


def test_in_training_the_noisy_task_gets_less_and_heads_are_scaled():
    generator = torch.Generator().manual_seed(0)
    p, head, combiner = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1)), Uncertainty(lr=0.05)
    optimizer = torch.optim.SGD([p, head], lr=0.02)
    for _ in range(200):
        noise = torch.randn(8, 2, generator=generator)
        losses = {
            "calm": (p - 1 + 0.3 * noise[:, 0]).square().mean(),
            "noisy": (p + head - 1 + 3 * noise[:, 1]).square().mean(),
        }
        plain = torch.autograd.grad(losses["noisy"], head, retain_graph=True)[0]
        optimizer.zero_grad()
        report = combine(losses, [p], combiner)
        torch.testing.assert_close(head.grad, report.weights[1].float() * plain)
        optimizer.step()
    calm, noisy = report.weights.tolist()
    assert calm > 2 and noisy < 0.1  # 1 / (2 L) would be 5.6 and 0.06


def test_options():
    for lr in (0, -1, float("inf")):
        with pytest.raises(ConfigError, match="lr: expected a finite number above 0"):
            build("combiner", "uncertainty", lr=lr)
    with pytest.raises(ConfigError, match="start: expected a finite number"):
        build("combiner", "uncertainty", start=float("inf"))
