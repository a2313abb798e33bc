"""One of several classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mtk.interfaces import Prediction, Target, Targets
from mtk.targets.divergences import of_classes
from mtk.targets.names import Names, macro_f1


class Classes(Target):
    """One of C named classes; outputs [B, C] are logits, the loss is cross-entropy, the main metric accuracy.

    Parsed labels are indices. A file may hold an index (`3`, `3.0`) or a name.
    """

    primary = "accuracy"

    def __init__(self, names: Sequence[str]) -> None:
        self._known = Names("classes", names)
        self.names = self._known.all
        self.size = len(self.names)

    def parse(self, raw: Any) -> int:
        return self._known.parse(raw)

    def collate(self, labels: Sequence[Any], length: int) -> Targets:
        mask = torch.tensor([label is not None for label in labels])
        values = torch.tensor([0 if label is None else label for label in labels])
        return Targets(values, mask, int(mask.sum()))

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        each = F.cross_entropy(outputs.float(), targets.labels, reduction="none")  # [B, C] -> [B]
        return (each * targets.mask).sum()

    def divergence(self, first: Tensor, second: Tensor) -> Tensor:
        return of_classes(first, second)  # [B, C] -> [B]

    def predict(self, outputs: Tensor, targets: Targets) -> list[Prediction]:
        rows = outputs.float().softmax(-1).tolist()
        best = [max(range(self.size), key=row.__getitem__) for row in rows]
        return [
            Prediction(i, self.names[i], row[i], dict(zip(self.names, row, strict=True)))
            for i, row in zip(best, rows, strict=True)
        ]

    def metrics(self, predictions: Sequence[Prediction], labels: Sequence[Any]) -> dict[str, float]:
        from sklearn.metrics import accuracy_score

        guesses = [p.value for p in predictions]
        return {"accuracy": float(accuracy_score(labels, guesses)), "macro_f1": macro_f1(labels, guesses)}
