"""Any number of labels a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mtk.errors import ConfigError
from mtk.interfaces import Prediction, Target, Targets
from mtk.targets.divergences import of_yes_or_no
from mtk.targets.names import Names


class MultiLabel(Target):
    """Some of C named labels; outputs [B, C] are logits, one yes or no a label, and the main metric is micro F1.

    A row's loss is the mean of its labels' binary cross-entropies. A label is predicted from a probability of
    `threshold` on. Parsed labels are tuples of indices in ascending order. A file holds names or indices with
    `separator` between them ("joy|surprise"; a lone "|" is the empty set, an empty field a missing label), or in JSON
    a list.

    Raises ConfigError for names that are none, repeat or hold the separator, and for a threshold outside (0, 1).
    """

    primary = "micro_f1"

    def __init__(self, names: Sequence[str], *, threshold: float = 0.5, separator: str = "|") -> None:
        self._known = Names("labels", names, least=1)
        self.names = self._known.all
        self.size = len(self.names)
        if not 0 < threshold < 1:
            raise ConfigError(f"threshold: expected a probability between 0 and 1, found {threshold}")
        torn = next((name for name in self.names if not separator or separator in name), None)
        if torn is not None:
            raise ConfigError(f"separator: expected one that no label holds, found '{separator}' and '{torn}'")
        self.threshold, self.separator = threshold, separator

    def parse(self, raw: Any) -> tuple[int, ...]:
        parts = raw.split(self.separator) if isinstance(raw, str) else raw if isinstance(raw, list | tuple) else [raw]
        return tuple(sorted({self._known.parse(part) for part in parts if str(part).strip()}))

    def collate(self, labels: Sequence[Any], length: int) -> Targets:
        mask = torch.tensor([label is not None for label in labels])
        values = torch.tensor([[float(i in (label or ())) for i in range(self.size)] for label in labels])  # [B, C]
        return Targets(values, mask, int(mask.sum()))

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        each = F.binary_cross_entropy_with_logits(outputs.float(), targets.labels, reduction="none")
        return (each.mean(-1) * targets.mask).sum()  # [B, C] -> [B] -> []

    def divergence(self, first: Tensor, second: Tensor) -> Tensor:
        """The mean over the labels, as in the loss."""
        return of_yes_or_no(first, second).mean(-1)  # [B, C] -> [B]

    def predict(self, outputs: Tensor, targets: Targets) -> list[Prediction]:
        """The labels' names as a list; the score is the highest probability of a label."""
        found = []
        for row in outputs.float().sigmoid().tolist():
            chosen = tuple(i for i, p in enumerate(row) if p >= self.threshold)
            shown = [self.names[i] for i in chosen]
            found.append(Prediction(chosen, shown, max(row), dict(zip(self.names, row, strict=True))))
        return found

    def metrics(self, predictions: Sequence[Prediction], labels: Sequence[Any]) -> dict[str, float]:
        """Micro F1, macro F1 over the labels that occur on either side (0 where none does), and subset accuracy."""
        import numpy as np
        from sklearn.metrics import accuracy_score, f1_score

        both = np.zeros((2, len(labels), self.size), dtype=np.int64)
        for side, rows in zip(both, (labels, [p.value for p in predictions]), strict=True):
            for row, chosen in enumerate(rows):
                side[row, list(chosen)] = 1
        there = both.any(axis=(0, 1))
        wanted, guessed = both[:, :, there] if there.any() else both
        return {
            "micro_f1": float(f1_score(wanted, guessed, average="micro", zero_division=0)),
            "macro_f1": float(f1_score(wanted, guessed, average="macro", zero_division=0)),
            "subset_accuracy": float(accuracy_score(wanted, guessed)),
        }
