"""Packed rows: the real tokens of a padded [B, L] batch end to end, and the ops of our BERT that know of them.

Linear layers see [N, D], the N real tokens; attention alone is padded to [B, L]. The CPU's forms of attention and
dropout were chosen by measurement (docs/log.md) and draw from torch's global generator, as torch's own do.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class Packing:
    """Where the N real tokens of a batch with mask [B, L] lie; without `packed`, all B x L places count as tokens.

    heads: H, of the attention that `split` and `join` serve.
    """

    def __init__(self, mask: Tensor, heads: int, packed: bool) -> None:
        self.mask, self.heads = mask, heads
        self.rows, self.length = mask.shape
        self.places = mask.flatten().nonzero().squeeze(1) if packed and not bool(mask.all()) else None  # [N]
        self._indices: dict[tuple[str, int], Tensor] = {}
        self._others: dict[int, Packing] = {}

    def with_heads(self, heads: int) -> Packing:
        """The same rows for an attention of another number of heads; one object for each number."""
        if heads != self.heads and heads not in self._others:
            other = self._others[heads] = copy(self)
            other.heads, other._indices, other._others = heads, {}, {}
        return self._others.get(heads, self)

    def pack(self, padded: Tensor) -> Tensor:
        """[B, L, ...] -> [N, ...]."""
        flat = padded.flatten(0, 1)
        return flat if self.places is None else flat.index_select(0, self.places)

    def unpack(self, tokens: Tensor) -> Tensor:
        """[N, ...] -> [B, L, ...] with zeros at the padding."""
        if self.places is not None:
            padded = tokens.new_zeros(self.rows * self.length, *tokens.shape[1:])
            tokens = padded.index_copy(0, self.places, tokens)
        return tokens.unflatten(0, (self.rows, self.length))

    def first(self, tokens: Tensor) -> Tensor:
        """[N, D] -> the first token of each row [B, D]."""
        if self.places is None:
            return tokens.unflatten(0, (self.rows, self.length))[:, 0]
        ends = self.mask.sum(1).cumsum(0)
        return tokens.index_select(0, torch.cat([ends.new_zeros(1), ends[:-1]]))

    def bias(self, dtype: torch.dtype) -> Tensor:
        """What hides padding from attention: [B, 1, 1, L] to add to its scores."""
        bias = torch.zeros(self.mask.shape, dtype=dtype, device=self.mask.device)
        return bias.masked_fill_(~self.mask, torch.finfo(dtype).min)[:, None, None, :]

    def split(self, tokens: Tensor, parts: int) -> Tensor:
        """[N, parts * H * d] -> [parts, B * H, L, d]; padding is zero, so that no row's NaN gets into another's."""
        narrow = tokens.view(-1, tokens.size(1) // (parts * self.heads))  # [N * parts * H, d]
        if self.places is None:
            narrow = narrow.view(self.rows, self.length, parts, self.heads, -1).permute(2, 0, 3, 1, 4)
            return narrow.reshape(parts, self.rows * self.heads, self.length, -1)
        narrow = F.pad(narrow, (0, 0, 0, 1))  # one row of zeros, which padding reads
        chosen = narrow.index_select(0, self._index("split", parts))
        return chosen.view(parts, self.rows * self.heads, self.length, -1)

    def join(self, heads: Tensor) -> Tensor:
        """[parts, B * H, L, d] -> [N, parts * H * d]: takes back what `split` gave."""
        parts, _, _, size = heads.shape
        if self.places is None:
            heads = heads.view(parts, self.rows, self.heads, self.length, size).permute(1, 3, 0, 2, 4)
            return heads.reshape(self.rows * self.length, -1)
        chosen = heads.view(-1, size).index_select(0, self._index("join", parts))
        return chosen.view(len(self.places), -1)

    def _index(self, kind: str, parts: int) -> Tensor:
        """The row indices of `split` or `join`; made once a forward and used by every layer."""
        found = self._indices.get((kind, parts))
        if found is None:
            found = self._split_index(parts) if kind == "split" else self._join_index(parts)
            self._indices[kind, parts] = found
        return found

    def _split_index(self, parts: int) -> Tensor:
        assert self.places is not None
        token = self.places.new_full((self.rows * self.length,), -1)
        token[self.places] = torch.arange(len(self.places), device=token.device)
        part, head = _range(parts, token).view(-1, 1, 1, 1), _range(self.heads, token).view(-1, 1)
        token = token.view(1, self.rows, 1, self.length)
        chosen = (token * parts + part) * self.heads + head  # [parts, B, H, L]
        return torch.where(token < 0, len(self.places) * parts * self.heads, chosen).flatten()

    def _join_index(self, parts: int) -> Tensor:
        assert self.places is not None
        row, place = self.places // self.length, self.places % self.length
        part, head = _range(parts, row).view(-1, 1), _range(self.heads, row)
        row, place = row.view(-1, 1, 1), place.view(-1, 1, 1)
        return (((part * self.rows + row) * self.heads + head) * self.length + place).flatten()


def _range(size: int, like: Tensor) -> Tensor:
    return torch.arange(size, device=like.device)


# ---------------------------------------------------------------------------------------------- dropout


def keep_mask(like: Tensor, dropout: float) -> Tensor:
    """A random mask of ones (kept) and zeros in the shape and dtype of `like`, on the CPU.

    Sixteen random bits an entry: `dropout` is met to 1e-5, in a tenth of `bernoulli_`'s time. The bits are SFC64's,
    seeded by a draw from torch's global generator.
    """
    source = np.random.Generator(np.random.SFC64(int(torch.randint(2**62, ()))))
    words = source.integers(0, 2**64, -(-like.numel() // 4), dtype=np.uint64)
    bits = torch.from_numpy(words.view(np.int16))
    threshold = min(round(dropout * 2**16), 2**16 - 1) - 2**15
    mask = torch.empty(like.shape, dtype=like.dtype)
    torch.ge(bits[: like.numel()].view(like.shape), threshold, out=mask)
    return mask


class _DropoutAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, residual: Tensor, dropout: float) -> Tensor:
        mask = keep_mask(hidden, dropout)
        ctx.save_for_backward(mask)
        ctx.scale = 1 / (1 - dropout)
        return torch.add(residual, hidden * mask, alpha=ctx.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,) = grads
        (mask,) = ctx.saved_tensors
        return (grad.to(mask.dtype) * mask).mul_(ctx.scale), grad, None


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, dropout: float) -> Tensor:
        mask = keep_mask(hidden, dropout).mul_(1 / (1 - dropout))
        ctx.save_for_backward(mask)
        return hidden * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * ctx.saved_tensors[0], None


def dropout(hidden: Tensor, p: float) -> Tensor:
    """`F.dropout` of a module in training."""
    if p == 0:
        return hidden
    return _Dropout.apply(hidden, p) if hidden.device.type == "cpu" else F.dropout(hidden, p)


def dropout_add(hidden: Tensor, residual: Tensor, p: float) -> Tensor:
    """residual + dropout(hidden), in the residual's dtype."""
    if p == 0 or hidden.device.type != "cpu":
        return residual + (F.dropout(hidden, p) if p else hidden)
    return _DropoutAdd.apply(hidden, residual, p)


# ---------------------------------------------------------------------------------------------- attention


def attention(qkv: Tensor, packing: Packing, dropout: float) -> Tensor:
    """Scaled dot-product self-attention: qkv [N, 3 * H * d] -> [N, H * d], d the size of a head.

    On the CPU, SDPA over padded rows is the slower one: in bfloat16, with dropout, and in float32 too (docs/log.md).
    """
    if qkv.device.type == "cpu":
        return _Attention.apply(qkv, packing, dropout)
    shape = (packing.rows, packing.length, 3, packing.heads, -1)
    query, key, value = packing.unpack(qkv).view(shape).permute(2, 0, 3, 1, 4)  # each [B, H, L, d]
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=packing.bias(query.dtype), dropout_p=dropout)
    return packing.pack(out.transpose(1, 2).flatten(2))


class _Attention(torch.autograd.Function):
    """Batched products and a softmax over [B * H, L, L], with its derivative written out."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, packing: Packing, dropout: float) -> Tensor:
        query, key, value = packing.split(qkv, 3)  # each [B * H, L, d]
        ctx.packing, ctx.scale = packing, query.size(-1) ** -0.5
        bias = packing.bias(qkv.dtype).expand(-1, packing.heads, -1, -1).reshape(-1, 1, packing.length)
        scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=ctx.scale)
        probabilities = scores.softmax(-1).to(qkv.dtype)
        if dropout > 0:
            mask = keep_mask(probabilities, dropout).mul_(1 / (1 - dropout))
            dropped = probabilities * mask
        else:
            mask, dropped = None, probabilities
        ctx.save_for_backward(query, key, value, probabilities, mask, dropped)
        return packing.join(torch.bmm(dropped, value).unsqueeze(0))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        query, key, value, probabilities, mask, dropped = ctx.saved_tensors
        packing: Packing = ctx.packing
        grad = packing.split(grads[0], 1)[0]  # [B * H, L, d]
        grads_qkv = torch.empty((3, *query.shape), dtype=query.dtype)
        torch.bmm(dropped.transpose(1, 2), grad, out=grads_qkv[2])
        slope = torch.bmm(grad, value.transpose(1, 2))
        if mask is not None:
            slope.mul_(mask)
        slope = torch._softmax_backward_data(slope, probabilities, -1, probabilities.dtype).mul_(ctx.scale)
        torch.bmm(slope, key, out=grads_qkv[0])
        torch.bmm(slope.transpose(1, 2), query, out=grads_qkv[1])
        return packing.join(grads_qkv), None, None
