"""The cosine of two texts encoded by themselves, scaled to the target."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtk import ConfigError, Features, MultiLabel, Number, Ordinal, Target
from mtk_heads.layers import ViewHead, pooled_pair


class Cosine(ViewHead):
    """score = scale * cos(E1, E2) + offset, as outputs [B, 1], or as the logits (-score/2, score/2) of two classes.

    scale, offset: where they start, or with learned=False stay (they are saved all the same).
    learned: whether they are trained. From 4 and -2 a cosine
    from 0 to 1 gives a score from -2 to 2, which is the whole of a Range in its standardised units. Of two classes the
    second is the one of similar texts (with a negative scale, of unlike ones), and the score is its logit. The cosine
    is taken in float32 whatever the precision. rdrop: the alpha of R-Drop (arXiv 2106.14448), 0 is off.

    Source: the baseline of "BERT and Learnie" (CS224N 2023), section 3.1, which scales the cosine "to match the labels"
    and learns no scale. It gives no formula; scale=2, offset=0, learned=False is what it says for cosines from -1 to 1:
    of a Range from 0 to 5, 2.5 (cos + 1); of two classes, the second where the cosine is positive.

    pairs_only: a task of single texts cannot use it. Raises ConfigError for such rows, for a target that is neither a
    number in a range nor two classes, for a scale of 0, for numbers that are not finite, and for wrong options, as
    ViewHead says.
    """

    reads = "bi"
    pairs_only: ClassVar[bool] = True

    def __init__(
        self,
        hidden_size: int,
        target: Target,
        *,
        dropout: float = 0.1,
        scale: float = 4.0,
        offset: float = -2.0,
        learned: bool = True,
        rdrop: float = 0.0,
    ) -> None:
        super().__init__(hidden_size, target, dropout=dropout, rdrop=rdrop)
        kind, others = type(target).__name__, "use the head 'concat', 'linear' or 'mlp'"
        if isinstance(target, Number | MultiLabel | Ordinal):
            raise ConfigError(
                f"expected a number in a range or two classes as the target, found {kind}, to which no cosine scales; "
                f"{others}"
            )
        if target.size not in (1, 2):
            raise ConfigError(f"expected a number or two classes as the target, found {target.size} outputs; {others}")
        if not math.isfinite(scale) or scale == 0:
            raise ConfigError(f"scale: expected a finite number other than 0, found {scale}")
        if not math.isfinite(offset):
            raise ConfigError(f"offset: expected a finite number, found {offset}")
        self.scale: Tensor
        self.offset: Tensor
        for name, value in (("scale", scale), ("offset", offset)):
            start = torch.tensor(float(value))
            if learned:
                self.register_parameter(name, nn.Parameter(start))
            else:
                self.register_buffer(name, start)

    def outputs(self, *features: Features) -> Tensor:
        a, b = (self.dropout(part).float() for part in pooled_pair("cosine", features))
        score = self.scale * F.cosine_similarity(a, b, dim=-1) + self.offset  # [B, D], [B, D] -> [B]
        if self.target.size == 1:
            return score.unsqueeze(-1)  # [B] -> [B, 1]
        return torch.stack((-score / 2, score / 2), dim=-1)  # [B] -> [B, 2]
