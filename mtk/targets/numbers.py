"""Numbers: in a declared range, or without one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtk.errors import ConfigError
from mtk.interfaces import Prediction, Target, Targets


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
        number = as_number(raw)
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

    def divergence(self, first: Tensor, second: Tensor) -> Tensor:
        return squared_difference(first, second)

    def predict(self, outputs: Tensor, targets: Targets) -> list[Prediction]:
        values = (outputs.float().squeeze(-1) * self._unit + self._middle).clamp(self.low, self.high).tolist()
        return [Prediction(value, round(value, 4), value) for value in values]

    def metrics(self, predictions: Sequence[Prediction], labels: Sequence[Any]) -> dict[str, float]:
        """Pearson's and Spearman's correlation (0 where one side is constant) and the negative mean squared error."""
        guesses = [p.value for p in predictions]
        return {**correlations(guesses, labels), "neg_mse": -mean_squared_error(guesses, labels)}


class Number(nn.Module, Target):
    """Any finite number; outputs [B, 1] are standardised, the loss is squared error, the metric Pearson's r.

    An output of 0 stands for the training labels' mean, one unit for their standard deviation (that of the population;
    1 where they are all the same), so a task's weight does not depend on its labels' unit. `fit` finds both. They are
    saved with the head, which learned in this unit, and taken over with it by a warm start; predictions are in the
    labels' own unit. A task that is only evaluated has 0 and 1, or those of the run that it starts from.
    """

    primary = "pearson"
    size = 1

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.deviation = 0.0, 1.0

    def parse(self, raw: Any) -> float:
        number = as_number(raw)
        if not math.isfinite(number):
            raise ValueError(f"expected a finite number, found '{str(raw).strip()}'")
        return number

    def fit(self, labels: Sequence[Any]) -> None:
        if labels:
            self.mean = math.fsum(labels) / len(labels)
            self.deviation = math.sqrt(math.fsum((y - self.mean) ** 2 for y in labels) / len(labels)) or 1.0

    def get_extra_state(self) -> Tensor:
        """Mean and deviation as float64 [2], for the head's state."""
        return torch.tensor([self.mean, self.deviation], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self.mean, self.deviation = state.tolist()

    def collate(self, labels: Sequence[Any], length: int) -> Targets:
        """Standardised labels [B]: in float64 until then, lest a large mean swallow what differs."""
        mask = torch.tensor([label is not None for label in labels])
        values = torch.tensor([0.0 if label is None else (label - self.mean) / self.deviation for label in labels])
        return Targets(values, mask, int(mask.sum()))

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        return ((outputs.float().squeeze(-1) - targets.labels).square() * targets.mask).sum()  # [B, 1] -> []

    def divergence(self, first: Tensor, second: Tensor) -> Tensor:
        return squared_difference(first, second)

    def predict(self, outputs: Tensor, targets: Targets) -> list[Prediction]:
        values = [x * self.deviation + self.mean for x in outputs.float().squeeze(-1).tolist()]
        return [Prediction(value, float(f"{value:.6g}"), value) for value in values]

    def metrics(self, predictions: Sequence[Prediction], labels: Sequence[Any]) -> dict[str, float]:
        """Pearson's and Spearman's correlation, R2 (0 of a single row), and the negative root mean squared error."""
        from sklearn.metrics import r2_score

        guesses = [p.value for p in predictions]
        return {
            **correlations(guesses, labels),
            "r2": float(r2_score(labels, guesses)) if len(labels) > 1 else 0.0,
            "neg_rmse": -math.sqrt(mean_squared_error(guesses, labels)),
        }


# ---------------------------------------------------------------------------------------------- what both need


def as_number(raw: Any) -> float:
    """A raw label as a number; NaN where it is none."""
    try:
        return float(str(raw).strip())
    except ValueError:
        return math.nan


def squared_difference(first: Tensor, second: Tensor) -> Tensor:
    """Of standardised outputs, [B, 1] -> [B] float32: the divergence of the normal distributions (of variance 1/2)
    whose negative log-likelihood is the squared error."""
    return (first.float() - second.float()).square().squeeze(-1)


def correlations(guesses: Sequence[float], labels: Sequence[float]) -> dict[str, float]:
    """Pearson's and Spearman's; 0 where one side is constant."""
    from scipy.stats import pearsonr, spearmanr

    if len(labels) < 2 or min(guesses) == max(guesses) or min(labels) == max(labels):
        return {"pearson": 0.0, "spearman": 0.0}
    return {
        "pearson": float(pearsonr(guesses, labels).statistic),
        "spearman": float(spearmanr(guesses, labels).statistic),
    }


def mean_squared_error(guesses: Sequence[float], labels: Sequence[float]) -> float:
    return float(sum((g - y) ** 2 for g, y in zip(guesses, labels, strict=True)) / max(1, len(labels)))
