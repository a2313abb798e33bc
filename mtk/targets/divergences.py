"""How far two distributions are apart: half of the two Kullback-Leibler divergences' sum, from logits, in nats."""

from __future__ import annotations

from torch import Tensor


def of_classes(first: Tensor, second: Tensor) -> Tensor:
    """1/2 (KL(P, Q) + KL(Q, P)) of the softmax of logits [..., C] -> [...] float32."""
    p, q = first.float().log_softmax(-1), second.float().log_softmax(-1)
    return ((p.exp() - q.exp()) * (p - q)).sum(-1) / 2


def of_yes_or_no(first: Tensor, second: Tensor) -> Tensor:
    """1/2 (KL(P, Q) + KL(Q, P)) of each logit's Bernoulli distribution: [...] -> [...] float32."""
    a, b = first.float(), second.float()
    return (a.sigmoid() - b.sigmoid()) * (a - b) / 2
