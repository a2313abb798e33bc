"""One of several classes that stand in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtk.interfaces import Prediction, Target, Targets
from mtk.targets.divergences import of_yes_or_no
from mtk.targets.names import Names


class Ordinal(nn.Module, Target):
    """One of C classes in ascending order; outputs [B, C - 1] + prior [C - 1] are the logits of "more than class k",
    k = 0 .. C - 2.

    `fit` takes the prior from the shares of the training labels, each class counted once more than it occurs (Laplace),
    so that a fresh head, whose outputs are near 0, gives each class its share. Starting from 0, the thresholds meet and
    leave the classes in the middle no room. It is saved with the head, which learned beside it, and taken over with it
    by a warm start. Without `fit` it is 0.

    A row's loss is the sum of the C - 1 binary cross-entropies, and the predicted class counts the probabilities above
    one half: the median, which has the least expected absolute error and need not be the most probable class. The main
    metric is the quadratic weighted kappa. With the head `ordinal`, whose thresholds share one
    weight vector, this is CORAL (Cao, Mirjalili and Raschka 2020, arXiv 1901.07884) with all importance weights 1. A
    head with weights for each threshold (`linear`, `mlp`) is the extended binary classification that CORAL starts from:
    freer, and its probabilities need not fall with k. So they are sorted before classes get theirs, as differences of
    neighbours; that changes no count.

    Parsed labels are indices. A file may hold an index or a name.
    """

    primary = "kappa"
    head = "ordinal"
    prior: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self._known = Names("ordered classes", names)
        self.names = self._known.all
        self.size = len(self.names) - 1
        self.register_buffer("prior", torch.zeros(self.size))

    def parse(self, raw: Any) -> int:
        return self._known.parse(raw)

    def fit(self, labels: Sequence[Any]) -> None:
        if labels:
            counts = torch.bincount(torch.tensor(labels), minlength=len(self.names)) + 1
            upto = counts.cumsum(0)[:-1]  # [C - 1], of class k and below
            self.prior.copy_(((counts.sum() - upto) / upto).log())

    def collate(self, labels: Sequence[Any], length: int) -> Targets:
        mask = torch.tensor([label is not None for label in labels])
        values = torch.tensor([0 if label is None else label for label in labels])
        return Targets(values, mask, int(mask.sum()))

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        above = targets.labels.unsqueeze(-1) > torch.arange(self.size, device=outputs.device)  # [B] -> [B, C - 1]
        each = F.binary_cross_entropy_with_logits(self._logits(outputs), above.float(), reduction="none")
        return (each.sum(-1) * targets.mask).sum()

    def divergence(self, first: Tensor, second: Tensor) -> Tensor:
        """The sum over the thresholds, as in the loss; of two classes, it is that of their probabilities.

        Of more, the divergence of the classes' probabilities has no bound where a head lets two thresholds meet.
        """
        return of_yes_or_no(self._logits(first), self._logits(second)).sum(-1)  # [B, C - 1] -> [B]

    def predict(self, outputs: Tensor, targets: Targets) -> list[Prediction]:
        more = self._logits(outputs).sigmoid().sort(-1, descending=True).values  # [B, C - 1]
        edge = more.new_ones(len(more), 1)
        rows = (torch.cat((edge, more), -1) - torch.cat((more, 0 * edge), -1)).tolist()  # [B, C]
        best = (more > 0.5).sum(-1).tolist()
        return [
            Prediction(i, self.names[i], row[i], dict(zip(self.names, row, strict=True)))
            for i, row in zip(best, rows, strict=True)
        ]

    def _logits(self, outputs: Tensor) -> Tensor:
        return outputs.float() + self.prior  # [B, C - 1]

    def metrics(self, predictions: Sequence[Prediction], labels: Sequence[Any]) -> dict[str, float]:
        """The quadratic weighted kappa (0 where all is one class), accuracy, and the negative mean absolute error in
        classes."""
        from sklearn.metrics import accuracy_score, cohen_kappa_score

        guesses = [p.value for p in predictions]
        kappa = math.nan
        if len({*labels, *guesses}) > 1:
            kappa = float(cohen_kappa_score(labels, guesses, weights="quadratic", labels=range(len(self.names))))
        error = sum(abs(g - y) for g, y in zip(guesses, labels, strict=True)) / max(1, len(labels))
        return {
            "kappa": kappa if math.isfinite(kappa) else 0.0,
            "accuracy": float(accuracy_score(labels, guesses)),
            "neg_mae": -float(error),
        }
