"""Fixed weights by task name."""

from __future__ import annotations

import pytest
import torch

from mtk import ConfigError, GradientCombiner, StepInfo, build, combine
from mtk.testing import check_registered
from mtk_combiners.weighted import Weighted

WEIGHTS = {"a": 2.0, "b": 0.5, "c": 0.0}


def info(*tasks):
    return StepInfo(tasks, 0, 0, torch.Generator())


def test_weights_follow_the_names_whatever_is_present():
    combiner, unread = Weighted(weights=WEIGHTS), torch.full((3,), torch.nan)
    assert isinstance(combiner, GradientCombiner) and combiner.needs == "nothing" and combiner.state_dict() == {}
    assert combiner.loss_weights(unread, info("a", "b", "c")).tolist() == [2, 0.5, 0]
    assert combiner.loss_weights(unread[:2], info("c", "a")).tolist() == [0, 2]
    assert combiner.loss_weights(unread[:1], info("b")).tolist() == [0.5]  # one task: not normalised


def test_golden_value_of_shared_and_head_gradients():
    p, heads = torch.nn.Parameter(torch.ones(2)), [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    losses = {"a": (p * heads[0]).sum(), "b": 3 * (p * heads[1]).sum()}
    report = combine(losses, [p], 'weighted:weights={"a": 2, "b": 0.5}')
    assert p.grad.tolist() == [2 * 1 + 0.5 * 3] * 2
    assert [h.grad.tolist() for h in heads] == [[2, 2], [1.5, 1.5]]
    assert report.weights.tolist() == [2, 0.5]


def test_conformance():
    check_registered("combiner", "weighted", weights={"first": 1, "second": 2.5, "third": 0.5})


def test_what_is_wrong_is_said():
    with pytest.raises(ConfigError, match="task 'stss' has none; did you mean 'sts'"):
        Weighted(weights={"sts": 1}).loss_weights(torch.ones(1), info("stss"))
    for weights in ({"a": -1}, {"a": float("inf")}, {"a": 0.0}, {}):
        with pytest.raises(ConfigError, match=r"weights: .*expected"):
            build("combiner", "weighted", weights=weights)
    with pytest.raises(ConfigError, match="weights"):
        build("combiner", "weighted", weights={"a": "much"})
