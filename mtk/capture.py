"""Per-task gradients from one backward: linear, layer-norm and embedding calls, told apart by the tasks' rows.

The rows of a fused batch belong to one task each, and no row depends on another. So with X the input of a linear layer
and dY the gradient of its output, task t's gradient of the weight is dY[rows of t]^T X[rows of t]. dY is propagated
once for all tasks, and the weight gradients of all tasks together cost as many operations as the summed one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mtk.gramian import Gradients, gramian_of_stack, weighted_sums

LARGE = 1 << 16  # entries of a parameter whose Gramian is worth a product of its own
Spans = Sequence[tuple[int, int]]  # start and stop of each of T tasks, in the order of a step's tasks


@dataclass(frozen=True)
class RowRanges:
    """Whose rows are where in a fused batch of B rows, padded to L tokens, N of them real.

    spans: by leading size (B, B * L, N), the (start, stop) of each task by name.
    """

    rows: int
    spans: Mapping[int, Mapping[str, tuple[int, int]]]


class Capture(TorchFunctionMode):
    """While it is entered, calls that use one of `parameters` are recorded, and autograd skips these gradients.

    After `begin(tasks, ranges)`, a forward under `with capture:` and a backward, `grams`, `combined` and `columns` tell
    of the T tasks' gradients. Any other use of a parameter, on what does not lead with the batch's rows or tokens say,
    is autograd's as ever. Calls with parameters in `refused` are left to autograd too.
    only_embeddings: leaves linear layers and norms to autograd, and spares the dense gradient of the word embedding,
    half of a small encoder's parameters, of which few rows are not zero.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], only_embeddings: bool = False) -> None:
        super().__init__()
        self.parameters = set(parameters)
        self.rules = {F.embedding: Capture._embedding} if only_embeddings else _RULES
        self.refused: set[nn.Parameter] = set()
        self.recording = True
        # Of embeddings: the last dense gradient, its rows that are not 0, and its version when we had written them.
        self._buffers: dict[nn.Parameter, tuple[Tensor, Tensor, int]] = {}
        self._pool: dict[nn.Parameter, Tensor] = {}
        self.begin(())

    def begin(self, tasks: Sequence[str], ranges: RowRanges | None = None, grams: bool = True) -> None:
        """Forgets the last micro-batch and awaits one whose rows lie as `ranges` says; None: all are the one task's.

        grams: take each Gramian during the backward, while its gradients are in the cache.
        """
        self._early, self.recording = grams, True
        self._tasks, self._ranges = tuple(tasks), ranges
        self._uses: Counter[nn.Parameter] = Counter()
        self._left: set[nn.Parameter] = set()  # used in a way that is autograd's
        self._stacks: dict[nn.Parameter, Tensor] = {}  # [T, *shape]
        self._looked_up: dict[nn.Parameter, list[tuple[Tensor, Tensor, Spans]]] = {}  # ids [n], gradients [n, D]
        self._rows: dict[nn.Parameter, tuple[Tensor, Tensor]] = {}  # embeddings: ids [U], gradients [T, U, D]
        self._grams: dict[nn.Parameter, Tensor] = {}

    def free(self) -> None:
        """Gives back the memory that is kept from step to step."""
        self._pool, self._buffers = {}, {}

    def follow(self, parameters: Iterable[nn.Parameter]) -> None:
        """Captures `parameters` from now on: something froze or thawed."""
        if self.parameters != set(parameters):
            self.parameters = set(parameters)
            self.free()

    @property
    def whole(self) -> bool:
        """Whether this micro-batch's forward left the gradients of all parameters to us, and none to autograd."""
        return len(self._uses) == len(self.parameters) and not self._left

    # ---------------------------------------------------------------------------------------------- forward

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        rule = self.rules.get(func)
        if rule is not None:
            out = rule(self, *args, **kwargs)
            if out is not None:
                return out
        out = func(*args, **kwargs)
        if isinstance(out, (Tensor, tuple)) and any(o.requires_grad for o in _tensors((out,))):
            self._left.update(p for p in _tensors((*args, *kwargs.values())) if p in self.parameters)  # type: ignore[misc]
        return out

    def _spans(self, rows: Tensor, parameters: Iterable[Tensor | None]) -> Spans | None:
        """The tasks' spans in `rows`, flattened to all but its last dimension; None where it cannot be captured."""
        known = [p for p in parameters if p is not None]
        if any(p not in self.parameters or p in self.refused for p in known) or not known:
            return None
        by_task: Mapping[str, tuple[int, int]] | None = None
        if rows.dim() > 0:
            everything = {name: (0, rows.size(0)) for name in self._tasks}
            by_task = everything if self._ranges is None else self._ranges.spans.get(rows.size(0))
        if by_task is None:
            return None
        self._uses.update(known)  # type: ignore[arg-type]
        return [by_task.get(name, (0, 0)) for name in self._tasks]

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
        if input.dim() < 2 or (spans := self._spans(input, (weight, bias))) is None:
            return None
        w, b = weight.detach(), None if bias is None else bias.detach()
        kind = input.device.type
        if torch.is_autocast_enabled(kind) and input.dtype != torch.float64:
            dtype = torch.get_autocast_dtype(kind)
            input, w, b = input.to(dtype), w.to(dtype), None if b is None else b.to(dtype)
        return _Linear.apply(input, weight, bias, w, b, self, spans)

    def _layer_norm(
        self,
        input: Tensor,
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor | None:
        one = len(normalized_shape) == 1 and input.dim() > 1 and weight is not None
        if not one or (spans := self._spans(input, (weight, bias))) is None:
            return None
        if input.device.type == "cuda" and torch.is_autocast_enabled("cuda"):
            input = input.float()  # as autocast has it
        return _LayerNorm.apply(input, weight, bias, eps, self, spans)

    def _embedding(
        self,
        input: Tensor,
        weight: Tensor,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Tensor | None:
        if max_norm is not None or scale_grad_by_freq or (sparse and self._ranges is None):
            return None
        rows = 1 if self._ranges is None else self._ranges.rows
        if input.dim() > 1 and input.size(0) == 1 < rows:  # positions, for all rows alike
            input = input.expand(rows, *input.shape[1:])
        if (spans := self._spans(input, (weight,))) is None:
            return None
        return _Embedding.apply(input, weight, padding_idx, self, spans)

    # ---------------------------------------------------------------------------------------------- backward

    def _keep(self, p: Tensor | None, stack: Tensor) -> None:
        """Adds one use's gradients [T, *shape]; after the last use takes the Gramian, while they are in the cache."""
        if not isinstance(p, nn.Parameter):
            return
        if p in self._stacks:
            stack = self._stacks[p].to(torch.promote_types(stack.dtype, torch.float32)) + stack
        self._stacks[p] = stack
        self._uses[p] -= 1
        if self._early and self._uses[p] == 0 and p not in self._looked_up and stack[0].numel() >= LARGE:
            self._grams[p] = gramian_of_stack(stack)

    def _room(self, p: nn.Parameter, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Memory for a stack, the last step's where it fits: fresh pages cost more than what is written to them."""
        room = self._pool.get(p)
        if (
            room is None
            or p in self._stacks
            or (room.shape, room.dtype, room.device) != (shape, like.dtype, like.device)
        ):
            room = torch.empty(shape, dtype=like.dtype, device=like.device)
            self._pool[p] = room
        return room

    def _settle(self) -> None:
        """After the backward: looked-up rows of each embedding by task."""
        for p, pieces in self._looked_up.items():
            if p in self._stacks:  # tied to a linear layer
                self._stacks[p] = self._stacks[p].to(torch.promote_types(self._stacks[p].dtype, torch.float32))
                for t in range(len(self._tasks)):
                    for ids, grads, spans in pieces:
                        start, stop = spans[t]
                        _ = self._stacks[p][t].index_add_(
                            0, ids[start:stop], grads[start:stop].to(self._stacks[p].dtype)
                        )
            else:
                self._rows[p] = _rows_by_task(pieces)
        self._looked_up = {}

    def grams(self, apart: bool = True) -> dict[nn.Parameter, Tensor]:
        """The Gramian [T, T] of each captured parameter, float64 on its device.

        Without `apart`, small parameters are taken together, and one of them stands for all: many small products cost
        more than one.
        """
        self._settle()
        stacks = {**self._stacks, **{p: values for p, (_, values) in self._rows.items()}}
        left = {p: stack for p, stack in stacks.items() if p not in self._grams}
        small = {} if apart else {p: stack for p, stack in left.items() if stack[0].numel() < LARGE}
        for p, stack in left.items():
            if p not in small:
                self._grams[p] = gramian_of_stack(stack)
        if small:
            wide = [s.flatten(1).to(torch.promote_types(s.dtype, torch.float32)) for s in small.values()]
            joined = torch.cat(wide, dim=1)
            return {**self._grams, next(iter(small)): gramian_of_stack(joined)}
        return self._grams

    def norm(self) -> float:
        """Of the sum of the tasks' gradients."""
        self._settle()
        parts = [*self._stacks.values(), *(values for _, values in self._rows.values())]
        return float(sum(float(part.sum(0).double().square().sum()) for part in parts)) ** 0.5

    def combined(self, weights: Sequence[float]) -> dict[nn.Parameter, Tensor]:
        """Each captured parameter's gradient: the sum of the tasks', with `weights` [T]. Forgets them."""
        self._settle()
        sums = weighted_sums(list(self._stacks.values()), weights)
        out = {p: total.to(p.dtype) for p, total in zip(self._stacks, sums, strict=True)}
        for p, (ids, values) in self._rows.items():
            dense = self._cleared(p)
            dense[ids] = weighted_sums([values], weights)[0].to(p.dtype)
            self._buffers[p] = (dense, ids, dense._version)
            out[p] = dense
        self.begin(())
        return out

    def _cleared(self, p: nn.Parameter) -> Tensor:
        """A dense gradient of zeros: the last step's with its rows wiped, if nobody else wrote there."""
        if p in self._buffers:
            dense, ids, version = self._buffers.pop(p)
            if dense._version == version and (dense.shape, dense.device) == (p.shape, p.device):
                dense[ids] = 0
                return dense
        return torch.zeros_like(p, requires_grad=False)

    def release(self, p: nn.Parameter) -> list[Tensor] | None:
        """The tasks' gradients of a parameter of which autograd has a part too; we forget them."""
        self._settle()
        self._grams.pop(p, None)
        if p in self._stacks:
            return [part.to(p.dtype, copy=True) for part in self._stacks.pop(p)]  # the stack's memory is used again
        if p in self._rows:
            ids, values = self._rows.pop(p)
            return [torch.zeros_like(p, requires_grad=False).index_add_(0, ids, v.to(p.dtype)) for v in values]
        return None

    def columns(self, parameters: Sequence[nn.Parameter]) -> dict[str, Gradients]:
        """Each task's dense gradients of `parameters`, None where they were not captured."""
        found: list[Sequence[Tensor | None]] = [self.release(p) or [None] * len(self._tasks) for p in parameters]
        return {name: [parts[t] for parts in found] for t, name in enumerate(self._tasks)}


def verify(
    capture: Capture, losses: Callable[[], Mapping[str, Tensor]], ranges: RowRanges, tolerance: float = 1e-3
) -> list[nn.Parameter]:
    """Compares captured gradients with those of a plain backward a task, and makes `capture` refuse what differs.

    losses: a forward of rows that lie as `ranges` says, in float32, with the same dropout at every call.
    Returns the parameters of which autograd has gradients, and so needs a backward a task. No `.grad` changes.
    """
    try:
        tasks, found = _captured(capture, losses, ranges)
    except (RuntimeError, TypeError, ValueError, IndexError):  # a model that the recorded calls do not suit
        capture.refused = set(capture.parameters)
        tasks, found = _captured(capture, losses, ranges)
    everything = list(capture.parameters)
    by_task = capture.columns(everything)
    others = {p for p, g in zip(everything, found, strict=True) if g is not None}
    plain = losses()
    for name in tasks:
        if not plain[name].requires_grad:
            continue
        wanted = torch.autograd.grad(plain[name], everything, retain_graph=True, allow_unused=True)
        floor = 1e-4 * max((float(g.norm()) for g in wanted if g is not None), default=0.0)  # less is rounding
        for p, ours, right in zip(everything, by_task[name], wanted, strict=True):
            if ours is not None:
                right = torch.zeros_like(p) if right is None else right.to_dense()
                if not float((ours - right).norm()) <= tolerance * max(float(right.norm()), floor):
                    capture.refused.add(p)
    capture.refused |= others  # what is autograd's here stays so, whatever sizes coincide in another batch
    return [p for p in everything if p in capture.refused]


def _captured(
    capture: Capture, losses: Callable[[], Mapping[str, Tensor]], ranges: RowRanges
) -> tuple[list[str], Sequence[Tensor | None]]:
    """The tasks, and what autograd has for each parameter after `capture` took the rest."""
    tasks = [name for spans in ranges.spans.values() for name in spans]
    capture.begin(list(dict.fromkeys(tasks)), ranges)
    with capture:
        values = losses()
    reach = [loss for loss in values.values() if loss.requires_grad]
    everything = list(capture.parameters)
    none: Sequence[Tensor | None] = [None] * len(everything)
    found = (
        torch.autograd.grad(reach, everything, [torch.ones_like(x) for x in reach], allow_unused=True)
        if reach
        else none
    )
    return list(values), found


_RULES: dict[Callable[..., Any], Callable[..., Tensor | None]] = {
    F.linear: Capture._linear,
    F.layer_norm: Capture._layer_norm,
    F.embedding: Capture._embedding,
}


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


# ---------------------------------------------------------------------------------------------- the three kinds


def _flat(rows: Tensor, spans: Spans) -> tuple[Tensor, list[tuple[int, int]]]:
    """[R, ..., n] -> [R * ..., n], and the spans counted in its rows."""
    each = rows.shape[1:-1].numel()
    return rows.reshape(-1, rows.size(-1)), [(start * each, stop * each) for start, stop in spans]


def _sums(rows: Tensor, spans: Spans) -> Tensor:
    """rows [R, n] -> the sum of each task's rows [T, n]."""
    return torch.stack([rows[start:stop].sum(0) for start, stop in spans])


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        w: Tensor,
        b: Tensor | None,
        capture: Capture,
        spans: Spans,
    ) -> Tensor:
        ctx.save_for_backward(input, w)
        ctx.parameters, ctx.capture, ctx.spans = (weight, bias), capture, spans
        return F.linear(input, w, b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        input, w = ctx.saved_tensors
        capture: Capture = ctx.capture
        grad, spans = _flat(grads[0], ctx.spans)
        if capture.recording:
            x, _ = _flat(input, ctx.spans)
            stack = capture._room(ctx.parameters[0], (len(spans), *w.shape), grad)
            for part, (start, stop) in zip(stack, spans, strict=True):
                torch.mm(grad[start:stop].t(), x[start:stop], out=part)
            capture._keep(ctx.parameters[0], stack)
            if ctx.parameters[1] is not None:
                capture._keep(ctx.parameters[1], _sums(grad, spans))
        return (grad @ w).view_as(input) if ctx.needs_input_grad[0] else None, *(None,) * 6


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, eps: float, capture: Capture, spans: Spans
    ) -> Tensor:
        out, mean, deviation = torch.native_layer_norm(input, weight.shape, weight, bias, eps)
        ctx.save_for_backward(input, weight, bias, mean, deviation)
        ctx.capture, ctx.spans = capture, spans
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        input, weight, bias, mean, deviation = ctx.saved_tensors
        capture: Capture = ctx.capture
        (grad, spans), (x, _), shape = _flat(grads[0], ctx.spans), _flat(input, ctx.spans), input.shape
        mean, deviation = mean.reshape(-1, 1), deviation.reshape(-1, 1)
        want = [ctx.needs_input_grad[0], True, bias is not None]
        if not capture.recording:
            spans, want = [(0, len(grad))], [True, False, False]
        parts = [
            torch.ops.aten.native_layer_norm_backward(
                grad[a:b], x[a:b], weight.shape, mean[a:b], deviation[a:b], weight, bias, want
            )
            for a, b in spans
        ]
        if capture.recording:
            capture._keep(weight, torch.stack([part[1] for part in parts]))
            capture._keep(bias, torch.stack([part[2] for part in parts]) if bias is not None else parts[0][1])
        in_order = sorted(range(len(spans)), key=lambda t: spans[t])
        out = torch.cat([parts[t][0] for t in in_order]).view(shape) if ctx.needs_input_grad[0] else None
        return out, *(None,) * 5


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, ids: Tensor, weight: Tensor, padding_idx: int | None, capture: Capture, spans: Spans
    ) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.parameter, ctx.capture, ctx.spans = weight, capture, spans
        ctx.padding = None if padding_idx is None else padding_idx % weight.size(0)
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (ids,) = ctx.saved_tensors
        capture: Capture = ctx.capture
        if capture.recording:
            grad, spans = _flat(grads[0], ctx.spans)
            if ctx.padding is not None:
                grad = grad.masked_fill((ids == ctx.padding).reshape(-1, 1), 0)
            capture._looked_up.setdefault(ctx.parameter, []).append((ids.reshape(-1), grad, spans))
        return (None,) * 5


def _rows_by_task(pieces: Sequence[tuple[Tensor, Tensor, Spans]]) -> tuple[Tensor, Tensor]:
    """Looked-up (ids [n], gradients [n, D], spans) -> the U ids that occur, and the tasks' sums [T, U, D]."""
    known, inverse = torch.cat([ids for ids, _, _ in pieces]).unique(return_inverse=True)
    like = pieces[0][1]
    dtype = torch.promote_types(like.dtype, torch.float32)
    values = torch.zeros(len(pieces[0][2]), len(known), like.size(1), dtype=dtype, device=like.device)
    at = 0
    for ids, grads, spans in pieces:
        for t, (start, stop) in enumerate(spans):
            values[t].index_add_(0, inverse[at + start : at + stop], grads[start:stop].to(dtype))
        at += len(ids)
    return known, values
