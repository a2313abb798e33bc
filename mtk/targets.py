"""What labels can be: one of several classes, or a number in a range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mtk.errors import ConfigError
from mtk.interfaces import Prediction, Target, Targets


class Classes(Target):
    """One of C named classes; outputs [B, C] are logits, the loss is cross-entropy, the main metric accuracy.

    Parsed labels are indices. A file may hold an index (`3`, `3.0`) or a name.
    """

    primary = "accuracy"

    def __init__(self, names: Sequence[str]) -> None:
        if len(names) < 2 or len(set(names)) != len(names):
            raise ConfigError(f"classes: expected at least two different names, found {list(names)}")
        self.names = tuple(str(name) for name in names)
        self.size = len(self.names)
        self._index = {name.lower(): i for i, name in enumerate(self.names)}

    def parse(self, raw: Any) -> int:
        text = str(raw).strip()
        if text.lower() in self._index:
            return self._index[text.lower()]
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if number.is_integer() and 0 <= number < self.size:
            return int(number)
        shown = ", ".join(f"{i} ({name})" for i, name in enumerate(self.names))
        raise ValueError(f"expected one of {shown}, found '{text}'")

    def collate(self, labels: Sequence[Any], length: int) -> Targets:
        mask = torch.tensor([label is not None for label in labels])
        values = torch.tensor([0 if label is None else label for label in labels])
        return Targets(values, mask, int(mask.sum()))

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        each = F.cross_entropy(outputs.float(), targets.labels, reduction="none")  # [B, C] -> [B]
        return (each * targets.mask).sum()

    def predict(self, outputs: Tensor, targets: Targets) -> list[Prediction]:
        rows = outputs.float().softmax(-1).tolist()
        best = [max(range(self.size), key=row.__getitem__) for row in rows]
        return [
            Prediction(i, self.names[i], row[i], dict(zip(self.names, row, strict=True)))
            for i, row in zip(best, rows, strict=True)
        ]

    def metrics(self, predictions: Sequence[Prediction], labels: Sequence[Any]) -> dict[str, float]:
        from sklearn.metrics import accuracy_score, f1_score

        guesses = [p.value for p in predictions]
        macro = f1_score(labels, guesses, average="macro", labels=sorted(set(labels) | set(guesses)))
        return {"accuracy": float(accuracy_score(labels, guesses)), "macro_f1": float(macro)}


class Range(Target):
    """A number from low to high; outputs [B, 1] are standardised, the loss is squared error, the metric Pearson's r.

    An output of 0 stands for the middle of the range and one unit for a quarter of its width, so that a fresh head
    starts in the middle and losses of different ranges are comparable. Predictions are clamped to the range.
    """

    primary = "pearson"
    size = 1

    def __init__(self, low: float, high: float) -> None:
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(f"range: expected low < high, found {low} and {high}")
        self.low, self.high = float(low), float(high)
        self._middle, self._unit = (self.low + self.high) / 2, (self.high - self.low) / 4

    def parse(self, raw: Any) -> float:
        try:
            number = float(str(raw).strip())
        except ValueError:
            number = math.nan
        if not self.low <= number <= self.high:
            raise ValueError(f"expected a number from {self.low:g} to {self.high:g}, found '{str(raw).strip()}'")
        return number

    def collate(self, labels: Sequence[Any], length: int) -> Targets:
        mask = torch.tensor([label is not None for label in labels])
        values = torch.tensor([self._middle if label is None else float(label) for label in labels])
        return Targets(values, mask, int(mask.sum()))

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        wanted = (targets.labels - self._middle) / self._unit
        return ((outputs.float().squeeze(-1) - wanted).square() * targets.mask).sum()  # [B, 1] -> []

    def predict(self, outputs: Tensor, targets: Targets) -> list[Prediction]:
        values = (outputs.float().squeeze(-1) * self._unit + self._middle).clamp(self.low, self.high).tolist()
        return [Prediction(value, round(value, 4), value) for value in values]

    def metrics(self, predictions: Sequence[Prediction], labels: Sequence[Any]) -> dict[str, float]:
        """Pearson's and Spearman's correlation (0 where one side is constant) and the negative mean squared error."""
        from scipy.stats import pearsonr, spearmanr

        guesses = [p.value for p in predictions]
        error = sum((g - y) ** 2 for g, y in zip(guesses, labels, strict=True)) / max(1, len(labels))
        if len(labels) < 2 or min(guesses) == max(guesses) or min(labels) == max(labels):
            return {"pearson": 0.0, "spearman": 0.0, "neg_mse": -float(error)}
        return {
            "pearson": float(pearsonr(guesses, labels).statistic),
            "spearman": float(spearmanr(guesses, labels).statistic),
            "neg_mse": -float(error),
        }
