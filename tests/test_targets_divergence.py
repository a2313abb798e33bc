"""How far apart two outputs are, for each kind of target."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mtk import Classes, MultiLabel, Number, Ordinal, Range, Ranking, Tags, Target
from mtk.targets.divergences import of_classes, of_yes_or_no

KINDS: list[tuple[Target, tuple[int, ...]]] = [
    (Classes(["a", "b", "c"]), (5,)),
    (Range(0, 5), (5,)),
    (Number(), (5,)),
    (Ordinal(["low", "middle", "high"]), (5,)),
    (MultiLabel(["a", "b", "c"]), (5,)),
    (Tags(["noun", "verb", "other"]), (5, 4)),
]
NAMES = [type(target).__name__ for target, _ in KINDS]


def outputs(target: Target, shape: tuple[int, ...], seed: int, scale: float = 3.0) -> Tensor:
    return torch.randn(*shape, target.size, generator=torch.Generator().manual_seed(seed)) * scale


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def symmetric_kl(p: float, q: float) -> float:
    """Of two coins: 1/2 (KL(P, Q) + KL(Q, P))."""
    forth = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    return 0.5 * (forth + q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p)))


def test_several_labels_by_hand() -> None:
    """The mean over the labels: one differs, one does not."""
    target = MultiLabel(["a", "b"])
    one, other = torch.tensor([[logit(0.5), 1.0]]), torch.tensor([[logit(0.2), 1.0]])
    assert target.divergence(one, other).tolist() == pytest.approx([symmetric_kl(0.5, 0.2) / 2])


def test_ordered_classes_by_hand() -> None:
    """The sum over the thresholds; of two classes, the divergence of the classes' probabilities."""
    one, other = torch.tensor([[logit(0.9), logit(0.4)]]), torch.tensor([[logit(0.6), logit(0.3)]])
    wanted = symmetric_kl(0.9, 0.6) + symmetric_kl(0.4, 0.3)
    assert Ordinal(["low", "middle", "high"]).divergence(one, other).tolist() == pytest.approx([wanted])
    one, other = outputs(Ordinal(["no", "yes"]), (5,), 0), outputs(Ordinal(["no", "yes"]), (5,), 1)
    as_classes = [torch.cat((torch.zeros_like(x), x), -1) for x in (one, other)]
    both = Ordinal(["no", "yes"]).divergence(one, other), Classes(["no", "yes"]).divergence(*as_classes)
    torch.testing.assert_close(*both)


def test_ordered_classes_stay_bounded_where_thresholds_meet() -> None:
    """Where the probability of the class between them is 0, and its logarithm nothing to learn from."""
    one = torch.tensor([[1.0, 1.0]], requires_grad=True)
    Ordinal(["low", "middle", "high"]).divergence(one, torch.tensor([[2.0, 0.0]])).sum().backward()
    assert one.grad is not None and one.grad.abs().max() < 1


def test_against_torchs_distributions() -> None:
    """An independent reference: the divergences of torch.distributions, and of numbers that of normal distributions."""
    from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence

    def both(p: Any, q: Any) -> Tensor:
        return (kl_divergence(p, q) + kl_divergence(q, p)) / 2

    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, 6, 3, generator=draw) for _ in range(2))
    torch.testing.assert_close(of_classes(a, b), both(Categorical(logits=a), Categorical(logits=b)))
    torch.testing.assert_close(of_yes_or_no(a, b), both(Bernoulli(logits=a), Bernoulli(logits=b)))
    x, y = a[0, :, :1], b[0, :, :1]
    normal = both(Normal(x, 0.5**0.5), Normal(y, 0.5**0.5)).squeeze(-1)  # -log density: (x - label)^2 + a constant
    torch.testing.assert_close(Number().divergence(x, y), normal)
    torch.testing.assert_close(Range(0, 5).divergence(x, y), normal)


@pytest.mark.parametrize(("target", "shape"), KINDS, ids=NAMES)
def test_a_number_an_item_symmetric_and_0_where_both_agree(target: Target, shape: tuple[int, ...]) -> None:
    a, b = outputs(target, shape, 0, 20), outputs(target, shape, 1, 20)
    apart = target.divergence(a, b)
    assert apart.shape == shape and apart.isfinite().all() and (apart > 0).all()
    torch.testing.assert_close(apart, target.divergence(b, a))
    assert not target.divergence(a, a).any()
    half = a.bfloat16(), b.bfloat16()
    torch.testing.assert_close(target.divergence(*half), target.divergence(half[0].float(), half[1].float()))


@pytest.mark.parametrize(("target", "shape"), KINDS, ids=NAMES)
def test_its_gradient_pulls_both_together(target: Target, shape: tuple[int, ...]) -> None:
    """Both are moved, and a step downhill by either brings them closer."""
    a, b = (outputs(target, shape, seed, 1).requires_grad_() for seed in (0, 1))
    before = target.divergence(a, b).sum()
    first, second = torch.autograd.grad(before, (a, b))
    assert first.any() and second.any()
    step = 1e-2
    assert target.divergence(a - step * first, b).sum() < before > target.divergence(a, b - step * second).sum()


def test_pairs_that_belong_together_have_none() -> None:
    """A row's distribution is over the batch's other rows: it is no item's own."""
    with pytest.raises(NotImplementedError, match="Ranking has no divergence"):
        Ranking().divergence((torch.ones(1, 2),) * 2, (torch.ones(1, 2),) * 2)
