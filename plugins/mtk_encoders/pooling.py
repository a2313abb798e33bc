"""From tokens [B, L, D] to one vector a row [B, D]."""

from __future__ import annotations

import torch
from torch import Tensor


def pool(tokens: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """tokens [B, L, D], mask [B, L] (real tokens first) -> [B, D]: the `mean`, first (`cls`) or `last` of them."""
    if pooling == "cls":
        return tokens[:, 0]
    if pooling == "last":
        last = mask.sum(1).clamp(min=1) - 1
        return tokens.gather(1, last[:, None, None].expand(-1, 1, tokens.size(-1))).squeeze(1)
    wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))  # sums in half precision lose digits
    keep = mask.unsqueeze(-1).to(wide.dtype)
    return (wide * keep).sum(1) / keep.sum(1).clamp(min=1)
