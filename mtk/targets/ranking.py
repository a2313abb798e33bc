"""Pairs of texts that belong together, told from all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mtk.interfaces import Prediction, Target, Targets

CHUNK = 256  # rows whose similarities to all candidates are held at a time
TIE = 1e-6  # cosines no further apart come from the same text, in another batch
AT = (1, 10)


class Ranking(Target):
    """Whether two texts belong together, learned from the other rows of the batch; the main metric is MRR.

    Outputs are two vectors a row (a, b), each [B, D], whose dot products are the logits. A row's loss is the
    cross-entropy of its own b among those of all the batch's rows, for its a: multiple negatives ranking, or InfoNCE
    (Henderson et al. 2017, arXiv 1705.00652, section 4.4). So it depends on the rows of the micro-batch: more rows are
    more negatives, and `accumulate` means fewer. A row by itself has nothing to learn from; its loss is 0.

    Parsed labels are 1 (they belong together) and 0: such a row asks nothing, and its texts are negatives for the
    others. Give pairs without a label column the label 1. A row without a label takes no part. Predictions are cosines.
    """

    level = "text"
    head = "contrastive"
    primary = "mrr"
    size = 1

    def parse(self, raw: Any) -> int:
        known = {"1": 1, "1.0": 1, "true": 1, "0": 0, "0.0": 0, "false": 0}
        text = str(raw).strip()
        if text.lower() not in known:
            raise ValueError(f"expected 1 (the texts belong together) or 0, found '{text}'")
        return known[text.lower()]

    def collate(self, labels: Sequence[Any], length: int) -> Targets:
        """labels [B]; the count is that of the rows labelled 1."""
        mask = torch.tensor([label is not None for label in labels])
        values = torch.tensor([label or 0 for label in labels])
        return Targets(values, mask, int(values.sum()))

    def loss(self, outputs: Any, targets: Targets) -> Tensor:
        a, b = outputs
        own = torch.eye(len(a), dtype=torch.bool, device=a.device)
        scores = (a.float() @ b.float().T).masked_fill(~(targets.mask | own), -torch.inf)  # [B, B]
        each = F.cross_entropy(scores, torch.arange(len(a), device=a.device), reduction="none")
        return (each * targets.labels).sum()

    def predict(self, outputs: Any, targets: Targets) -> list[Prediction]:
        a, b = (F.normalize(part.float(), dim=-1) for part in outputs)
        cosines = (a * b).sum(-1).tolist()
        vectors = zip(a.cpu().numpy(), b.cpu().numpy(), strict=True)
        return [Prediction(x, round(x, 4), x, vectors=both) for x, both in zip(cosines, vectors, strict=True)]

    def metrics(self, predictions: Sequence[Prediction], labels: Sequence[Any]) -> dict[str, float]:
        """For each row labelled 1, the rank of its own b among those of all rows here: mean reciprocal rank, and how
        often it is among the first 1 and 10.

        The b's that tie with it count half each, so that a text which stands in several rows costs some rank, and a
        model that gives all texts one vector gains none. Others that would fit as well count against it. A prediction
        without vectors has no other candidates.
        """
        known = [(p.vectors, y) for p, y in zip(predictions, labels, strict=True) if p.vectors is not None]
        ranks = [1.0] * (sum(labels) - sum(y for _, y in known))
        if known:
            a, b = (torch.from_numpy(np.stack([both[side] for both, _ in known])) for side in (0, 1))
            ranks += ranks_of_own(a, b, [row for row, (_, y) in enumerate(known) if y == 1])
        count = max(1, len(ranks))
        found = {f"recall@{k}": sum(rank <= k for rank in ranks) / count for k in AT}
        return {"mrr": sum(1 / rank for rank in ranks) / count, **found}


def ranks_of_own(a: Tensor, b: Tensor, rows: Sequence[int]) -> list[float]:
    """The rank, from 1, of b's own row for each of `rows` of a, by dot product; ties count half each. a, b [N, D]."""
    ranks: list[float] = []
    for start in range(0, len(rows), CHUNK):
        some = torch.tensor(rows[start : start + CHUNK])
        scores = a[some] @ b.T  # [n, N]
        apart = scores - scores.gather(1, some.unsqueeze(1))
        better, tied = (apart > TIE).sum(1), (apart.abs() <= TIE).sum(1) - 1  # itself is no rival
        ranks += (1 + better + tied / 2).tolist()
    return ranks
