"""The gradient engine: per-task losses in, one combined gradient in `.grad` out; `combine` is for any PyTorch loop.

It does the least work that serves the combiner: one plain backward for constant or loss weights, and gradients by task
for weights from the Gramian or for element-wise combining. Head parameters never take part in surgery.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor, nn

from mtk.capture import Capture, RowRanges, verify
from mtk.errors import MTKError, NonFiniteError
from mtk.gramian import Gradients, add, gramian, norm_of, scale
from mtk.interfaces import GradientCombiner, StepInfo


@dataclass(frozen=True, slots=True)
class GradientReport:
    """What became of one step's gradients. T is in the order of `tasks`.

    weights: [T] float64 CPU, what each task's shared gradient was multiplied with, clipping aside (element-wise: ones).
    gram: [T, T] float64 CPU, the inner products of the tasks' gradients before any weight; None where neither the
        combiner nor `diagnose` asked for it. layers: the same by the names of the engine's `groups`.
    norm: of the whole gradient before clipping; None where neither `max_norm` nor `finite` asked for it.
    """

    tasks: tuple[str, ...]
    weights: Tensor
    gram: Tensor | None = None
    norm: Tensor | float | None = None
    layers: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def conflicts(self) -> int | None:
        """Pairs i < j with gram[i, j] < 0, where there is a gram."""
        return None if self.gram is None else int((self.gram.triu(1) < 0).sum())


class GradientEngine:
    """Combines the gradients of one step after the other: `start`, `backward` once a micro-batch, `finish`.

    shared: the parameters that the combiner acts on (ties are taken once; those frozen at `start` are left out).
    owned: each task's own parameters: part of the norm, clipped, and scaled by loss weights under accumulation.
    A parameter in both is shared; one that two tasks own belongs into `shared`. Raises MTKError otherwise.
    groups: names for parts of `shared`, whose Gramians a diagnosed step reports too.

    Shared `.grad` is emptied by `start` and overwritten by `finish`; other parameters' `.grad` is added to during
    `backward`, so the loop zeroes it. Sparse shared gradients of Gramian and element-wise combiners become dense.
    """

    def __init__(
        self,
        shared: Sequence[nn.Parameter],
        combiner: GradientCombiner,
        owned: Mapping[str, Sequence[nn.Parameter]] | None = None,
        groups: Mapping[str, Sequence[nn.Parameter]] | None = None,
    ) -> None:
        check_needs(combiner)
        self.combiner = combiner
        self._shared = list(dict.fromkeys(shared))
        if any(not isinstance(p, Tensor) or not p.is_leaf for p in self._shared):
            raise MTKError("shared: expected parameters, found something else; give for example model.parameters()")
        self._owned = None if owned is None else _split(owned, set(self._shared))
        self._groups = {name: set(part) for name, part in (groups or {}).items()}
        self._info: StepInfo | None = None
        trainable = [p for p in self._shared if p.requires_grad]
        self._capture, self._rows = Capture(trainable), Capture(trainable, only_embeddings=True)

    @property
    def shared(self) -> Sequence[nn.Parameter]:
        """The parameters that the combiner acts on."""
        return self._shared

    @property
    def by_task(self) -> bool:
        """Whether every step takes each task's own gradients, be it a diagnosed one or not."""
        return self.combiner.needs in ("gram", "gradients")

    def start(self, info: StepInfo, micro_batches: int = 1, diagnose: bool = False) -> None:
        """Begins a step of `info.tasks`: all the tasks that are in any of its micro-batches.

        diagnose: report the Gramian also where the combiner needs none: the same update, at a Gramian combiner's cost.
        Raises MTKError where the combiner weighs losses, `micro_batches` > 1 and a task's `owned` is not known.
        """
        if not info.tasks or len(set(info.tasks)) < len(info.tasks) or micro_batches < 1:
            raise MTKError(f"a step has distinct tasks and micro-batches, found {info.tasks} and {micro_batches}")
        needs = self.combiner.needs
        unknown = set(info.tasks) - set(self._owned or ())
        if needs == "losses" and micro_batches > 1 and unknown:
            raise MTKError(
                f"{_name(self.combiner)} weighs losses, and over {micro_batches} micro-batches that scales heads too: "
                f"give the engine `owned` parameters of {', '.join(sorted(unknown))} (empty lists are fine)"
            )
        self._info, self._micro_batches, self._done = info, micro_batches, 0
        self._diagnose = diagnose
        self._early = needs == "nothing" or (needs == "losses" and micro_batches == 1)  # weights before the backward
        self._plain = self._early and not diagnose
        self._params = [p for p in self._shared if p.requires_grad]
        for capture in (self._capture, self._rows):
            capture.follow(self._params)
        self._watching: Capture | None = None
        self._held: Capture | None = None
        self._losses: dict[str, Tensor] = {}
        self._buffers: dict[str, Gradients] = {name: [None] * len(self._params) for name in info.tasks}
        for p in self._shared:
            p.grad = None
        self._scales: Tensor | None = None  # [T], of the losses, where it is known before the backward
        if needs == "nothing" or (needs == "gram" and _has_own(self.combiner, "loss_weights")):
            placeholder = torch.full((len(info.tasks),), torch.nan)  # who reads it after all gets NaN, and is told so
            weights = self.combiner.loss_weights(placeholder, info)
            self._scales = self._checked(weights, info, finite=True, unread=True)

    def watch(self, ranges: RowRanges) -> AbstractContextManager[object]:
        """What to enter for the forward and the losses of a micro-batch whose tasks' rows lie as `ranges` says.

        `backward` then takes the tasks' gradients from one pass, as far as `mtk.capture` can tell the rows apart, and
        needs a pass a task for the rest; call `check` first, which finds out what that is. Where one plain backward
        serves, embeddings alone are watched, and their gradient is made of the rows that were looked up. Other rows
        than a task's own must not feel its loss, and `ranges` covers every row. An embedding's `.grad` is memory that
        the next step uses again: do not keep it, nor edit it through `.data`.

            with engine.watch(ranges):
                losses = ...
        """
        info = self._running()
        if not self._params:
            return nullcontext()
        if not self._plain:
            one = self._micro_batches == 1 and self.combiner.needs != "gradients"
            self._capture.begin(info.tasks, ranges, grams=one)
            self._watching = self._capture
        elif self._micro_batches == 1 and self._params[0].device.type == "cpu":
            self._rows.begin(("all",))
            self._watching = self._rows
        return nullcontext() if self._watching is None else self._watching

    def check(self, losses: Callable[[], Mapping[str, Tensor]], ranges: RowRanges) -> list[nn.Parameter]:
        """Compares what `watch` gives with a plain backward a task; what differs takes those from then on.

        losses: see `mtk.capture.verify`. Returns the parameters that take a backward a task.
        """
        return verify(self._capture, losses, ranges) if self._capture.parameters else []

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Takes the gradients of one micro-batch: a scalar loss a present task, divided by the whole step's count.

        A loss without a graph (a task none of whose rows has a label) counts as a gradient of zero. The graph is freed.
        Raises MTKError for tasks that the step does not have, losses that are no scalars, or one call too many.
        """
        info = self._running()
        if self._done == self._micro_batches:
            raise MTKError(f"backward was called more often than the {self._micro_batches} micro-batches of the step")
        _check_losses(losses, info, whole=self._micro_batches == 1)
        present = {name: losses[name] for name in info.tasks if name in losses}
        for name, loss in present.items():
            value = loss.detach().reshape(())
            self._losses[name] = self._losses[name] + value if name in self._losses else value.clone()
        self._done += 1
        if self._early and self.combiner.needs == "losses":
            self._scales = self._checked(self.combiner.loss_weights(self._summed(info), info), info)
        scales = {} if self._scales is None else dict(zip(info.tasks, self._scales, strict=True))
        reach = {name: (x, _like(x, scales.get(name))) for name, x in present.items() if x.requires_grad}
        capture, self._watching = self._watching, None
        if self._plain or not self._params:
            _backward(reach)
            self._held = capture
        elif capture is not None:
            self._backward_at_once(reach, capture)
        else:
            for place, (name, (loss, weight)) in enumerate(reach.items(), start=1):
                torch.autograd.backward(loss, weight, retain_graph=place < len(reach))
                add(self._buffers[name], self._take())

    def _backward_at_once(self, reach: Mapping[str, tuple[Tensor, Tensor]], capture: Capture) -> None:
        """One backward for all tasks, and one a task for parameters of which autograd still has gradients."""
        _backward(reach, retain_graph=not capture.whole)
        others = {place: p for place, p in enumerate(self._params) if p.grad is not None}
        for p in others.values():
            p.grad = None
        capture.recording = False
        for name, (loss, weight) in reach.items() if others else ():
            found = torch.autograd.grad(loss, list(others.values()), weight, retain_graph=True, allow_unused=True)
            for place, g in zip(others, found, strict=True):
                self._add(name, place, None if g is None else (g.to_dense() if g.is_sparse else g).clone())
        capture.recording = True
        if self.combiner.needs != "gradients" and self._micro_batches == 1:
            self._held = capture  # as it is; only what autograd has a part of goes into the buffers
        for place in others if self._held else range(len(self._params)):
            for name, g in zip(self._buffers, capture.release(self._params[place]) or (), strict=False):
                self._add(name, place, g)

    def _add(self, name: str, place: int, gradient: Tensor | None) -> None:
        column: Gradients = [None] * len(self._params)
        column[place] = gradient
        add(self._buffers[name], column)

    def finish(self, max_norm: float | None = None, finite: bool = True) -> GradientReport:
        """Leaves the combined gradient in `.grad`, clipped to the norm `max_norm` over shared and owned parameters.

        Raises NonFiniteError where a gradient is not finite (with `finite`; always where there is a Gramian, which
        names the tasks), MTKError where the step is not complete.
        """
        info = self._running()
        missing = [name for name in info.tasks if name not in self._losses]
        if self._done != self._micro_batches or missing:
            raise MTKError(
                f"the step is not complete: {self._done} of {self._micro_batches} micro-batches, "
                f"{'no loss for ' + ', '.join(missing) if missing else 'a loss for every task'}; call backward for each"
            )
        self._info = None
        needs, ones = self.combiner.needs, torch.ones(len(info.tasks), dtype=torch.float64)
        scales = ones if self._scales is None else self._scales.cpu().double()
        gram: Tensor | None = None
        layers: dict[str, Tensor] = {}
        norm: Tensor | float | None
        if needs == "gram" or self._diagnose:
            gram, layers = self._gramians(info)
            bad = [name for name, fine in zip(info.tasks, gram.diagonal().isfinite(), strict=True) if not fine]
            if bad:
                raise NonFiniteError(bad, info.step)
        if gram is not None and (needs == "gram" or self._early):
            weights = ones
            if needs == "gram" and self._params:  # where all is frozen, a combiner's state is left alone
                losses = self._summed(info).cpu().double()
                weights = self._checked(self.combiner.gradient_weights(gram.clone(), losses, info), info, finite=True)
                weights = weights.cpu().double()
            total = (max(0.0, float(weights @ gram @ weights)) + norm_of(self._heads()) ** 2) ** 0.5
            norm, factor = total, 1.0 if max_norm is None else clip_factor(total, max_norm)
            if finite and not math.isfinite(total):
                raise NonFiniteError((), info.step)
            scale(self._heads(), factor)
            self._write(info, (weights * factor).tolist())
            weights = weights * scales
        else:
            weights, held = scales, None
            if needs == "gradients":
                self._combine_chunks(info)
            elif self._plain:
                held = self._held
            else:
                weights = self._checked(self.combiner.loss_weights(self._summed(info), info), info).cpu().double()
                self._write(info, weights.tolist())
                for name, weight in zip(info.tasks, weights.tolist(), strict=True):
                    scale((self._owned or {})[name], weight)
            norm = self._clip(max_norm, finite, held, info)
        if self._early and self._diagnose:
            self._capture.free()  # diagnosed now and then: its memory is not held in between
        if gram is not None:
            gram, layers = unscaled(gram, scales), {name: unscaled(part, scales) for name, part in layers.items()}
        return GradientReport(info.tasks, weights, gram, norm, layers)

    def _gramians(self, info: StepInfo) -> tuple[Tensor, dict[str, Tensor]]:
        """The Gramian of the step's gradients, and those of its groups."""
        buffers = [self._buffers[name] for name in info.tasks]
        found = {} if self._held is None else self._held.grams(apart=bool(self._groups))
        zero = torch.zeros(len(info.tasks), len(info.tasks), dtype=torch.float64)

        def of(places: Sequence[int]) -> Tensor:
            total = gramian([[buffer[place] for place in places] for buffer in buffers])
            kept = [found[p] for p in (self._params[place] for place in places) if p in found]
            return total + (torch.stack(kept).sum(0).cpu().double() if kept else zero)

        places = range(len(self._params))
        groups = {
            name: [place for place in places if self._params[place] in part] for name, part in self._groups.items()
        }
        return of(places), {name: of(part) for name, part in groups.items() if part and self._diagnose}

    def _clip(
        self, max_norm: float | None, finite: bool, held: Capture | None, info: StepInfo
    ) -> Tensor | float | None:
        """Clips what stands in `.grad` and what `held` has of embeddings, and writes that. Returns the norm."""
        for p in self._params:
            if held is not None and p.grad is not None and (parts := held.release(p)):
                p.grad.add_(parts[0])  # tied: autograd has a part of it
        parameters = [*self._params, *self._heads()]
        if max_norm is None and not finite:
            norm, factor = None, 1.0
        elif parameters and parameters[0].device.type != "cpu":  # on the device: nobody waits for it here
            return nn.utils.clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm)
        else:
            norm = (norm_of(parameters) ** 2 + (0.0 if held is None else held.norm()) ** 2) ** 0.5
            if finite and not math.isfinite(norm):
                raise NonFiniteError((), info.step)
            factor = 1.0 if max_norm is None else clip_factor(norm, max_norm)
            scale(parameters, factor)
        for p, g in ({} if held is None else held.combined([factor])).items():
            p.grad = g
        return norm

    def _combine_chunks(self, info: StepInfo) -> None:
        """One call of the combiner a parameter: chunk [T, n], in float32 at least."""
        buffers = [self._buffers[name] for name in info.tasks]
        for place, p in enumerate(self._params):
            column = [buffer[place] for buffer in buffers]
            if all(g is None for g in column):
                continue
            dtype = torch.promote_types(p.dtype, torch.float32)
            zero = torch.zeros(p.numel(), dtype=dtype, device=p.device)
            chunk = torch.stack([zero if g is None else g.reshape(-1).to(dtype) for g in column])  # [T, n]
            for buffer in buffers:
                buffer[place] = None
            out = self.combiner.combine(chunk, info)
            if not isinstance(out, Tensor) or out.shape != zero.shape:
                found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
                raise MTKError(
                    f"{_name(self.combiner)}.combine: expected a chunk of shape {tuple(zero.shape)} from "
                    f"{tuple(chunk.shape)}, found {found}"
                )
            p.grad = torch.empty_like(p, requires_grad=False).copy_(out.detach().reshape(p.shape))

    def _write(self, info: StepInfo, weights: Sequence[float]) -> None:
        """The weighted sum, formed in the first task's buffers, as the shared `.grad`."""
        total: Gradients = [None] * len(self._params)
        for name, weight in zip(info.tasks, weights, strict=True):
            add(total, self._buffers.pop(name), weight)
        held = self._held.combined(weights) if self._held else {}
        for p, g in zip(self._params, total, strict=True):
            p.grad = held.get(p, g)

    def _take(self) -> Gradients:
        """The shared gradients, taken out of `.grad`, each in memory of its own."""
        taken: Gradients = []
        places = {p.grad.data_ptr() for p in self._heads() if p.grad is not None}
        for p in self._params:
            g, p.grad = p.grad, None
            if g is not None and g.is_sparse:
                g = g.to_dense()
            if g is not None and g.data_ptr() in places:
                g = g.clone()  # autograd gives p.view(-1) + q.view(-1) one memory for both gradients
            if g is not None:
                places.add(g.data_ptr())
            taken.append(g)
        return taken

    def _checked(self, weights: Tensor, info: StepInfo, finite: bool = False, unread: bool = False) -> Tensor:
        where = f"step {info.step + 1}: {_name(self.combiner)}"
        if not isinstance(weights, Tensor) or weights.shape != (len(info.tasks),):
            found = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
            raise MTKError(f"{where}: expected weights of shape ({len(info.tasks)},), found {found}")
        if finite and not weights.isfinite().all():
            reads = f"; with needs = '{self.combiner.needs}' loss_weights may not read the losses" if unread else ""
            raise MTKError(f"{where}: expected finite weights, found {weights.tolist()}{reads}")
        return weights.detach()

    def _summed(self, info: StepInfo) -> Tensor:
        """The step's losses [T] so far, in float32 at least."""
        values = [self._losses[name] for name in info.tasks]
        dtype = reduce(torch.promote_types, (v.dtype for v in values), torch.float32)
        return torch.stack([v.to(values[0].device, dtype) for v in values])

    def _heads(self) -> list[nn.Parameter]:
        return [p for part in (self._owned or {}).values() for p in part]

    def _running(self) -> StepInfo:
        if self._info is None:
            raise MTKError("no step is running: call start(info) before backward and finish")
        return self._info


def combine(
    losses: Mapping[str, Tensor] | Sequence[Tensor],
    shared_parameters: Iterable[nn.Parameter],
    combiner: GradientCombiner | str = "sum",
    *,
    step: int = 0,
    epoch: int = 0,
    generator: torch.Generator | None = None,
    max_norm: float | None = None,
) -> GradientReport:
    """Stands in for `loss.backward()` in any PyTorch loop: combines the tasks' gradients and adds them to `.grad`.

    losses: scalars by task name, or in a sequence (then named task0, task1, ...). combiner: an object, or a text such
    as "cagrad:c=0.4", for which one is built afresh at each call: a combiner with a state (FAMO, Nash-MTL) wants to be
    an object that you keep. generator: of the combiner's randomness; without one, a new one is seeded from torch's
    global generator, so that `torch.manual_seed` settles it. step, epoch: passed on to the combiner.
    Like `backward`, it frees the graph and adds to `.grad`; surgery sees this call's gradients only. max_norm clips
    what this call adds to the shared parameters; heads are not known here, and are neither clipped nor in the norm.

        loss_a, loss_b = criterion(head_a(x), a), criterion(head_b(x), b)   # where x = backbone(images)
        optimizer.zero_grad()
        mtk.combine({"a": loss_a, "b": loss_b}, backbone.parameters(), "pcgrad")
        optimizer.step()

    Raises MTKError for losses or parameters that are none, a gradient that is not finite, and a `looks_again` combiner
    given as text (keep the object and call its `after_step`); PluginError for an unknown combiner.
    """
    if not isinstance(losses, Mapping):
        losses = {f"task{i}": loss for i, loss in enumerate(losses)}
    if isinstance(shared_parameters, nn.Module):
        raise MTKError("shared_parameters: expected parameters, found a module; give module.parameters()")
    shared = list(dict.fromkeys(shared_parameters))
    if generator is None:
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    engine = GradientEngine(shared, _built(combiner))
    before = {p: p.grad for p in shared}
    try:
        engine.start(StepInfo(tuple(losses), step, epoch, generator))
        engine.backward(losses)
        report = engine.finish(max_norm, finite=False)
    except BaseException:
        for p, g in before.items():
            p.grad = g
        raise
    for p, g in before.items():
        if g is not None:
            p.grad = g if p.grad is None else g.add_(p.grad)
    return report


_ASKED = {"nothing": "loss_weights", "losses": "loss_weights", "gram": "gradient_weights", "gradients": "combine"}


def check_needs(combiner: GradientCombiner) -> None:
    """Refuses `needs` that there is not, and a combiner without the method that its `needs` asks for: it would sum.

    Raises MTKError.
    """
    if combiner.needs not in tuple(_ASKED):
        raise MTKError(f"{_name(combiner)}.needs: expected nothing, losses, gram or gradients, not {combiner.needs!r}")
    method = _ASKED[combiner.needs]
    if not _has_own(combiner, method):
        kind = type(combiner)
        others = [n for n in dir(kind) if not hasattr(GradientCombiner, n) and callable(getattr(kind, n))]
        raise MTKError(
            f"{_name(combiner)}: with needs = '{combiner.needs}' expected a method {method} of its own, found "
            f"{', '.join(others) or 'none'}"
        )


def _has_own(combiner: GradientCombiner, method: str) -> bool:
    """Whether the combiner overrides the base class's."""
    return getattr(getattr(combiner, method), "__func__", None) is not getattr(GradientCombiner, method)


def _like(loss: Tensor, weight: Tensor | None) -> Tensor:
    """The weight, one where there is none, as what `backward` starts with at the loss."""
    return torch.ones_like(loss) if weight is None else weight.to(loss).reshape(loss.shape)


def _backward(losses: Mapping[str, tuple[Tensor, Tensor]], retain_graph: bool = False) -> None:
    """One backward of losses with their weights."""
    if losses:
        values, weights = zip(*losses.values(), strict=True)
        torch.autograd.backward(values, weights, retain_graph=retain_graph)


def clip_factor(norm: float, max_norm: float) -> float:
    """As torch.nn.utils.clip_grad_norm_ has it."""
    return min(1.0, max_norm / (norm + 1e-6))


def unscaled(gram: Tensor, scales: Tensor) -> Tensor:
    """The Gramian of gradients that were scaled by `scales` [T], before that; zero where the scale is."""
    inverse = torch.where(scales == 0, 0.0, 1 / scales)
    return gram * torch.outer(inverse, inverse)


def _split(owned: Mapping[str, Sequence[nn.Parameter]], shared: set[nn.Parameter]) -> dict[str, list[nn.Parameter]]:
    """Each task's own parameters without shared ones. Raises MTKError where two tasks own one parameter."""
    owner: dict[nn.Parameter, str] = {}
    for name, parameters in owned.items():
        for p in parameters:
            if p not in shared and owner.setdefault(p, name) != name:
                shape = tuple(p.shape)
                raise MTKError(f"'{owner[p]}' and '{name}' own one parameter of shape {shape}: list it in `shared`")
    return {name: [p for p, task in owner.items() if task == name] for name in owned}


def _check_losses(losses: Mapping[str, Tensor], info: StepInfo, whole: bool) -> None:
    strange, absent = set(losses) - set(info.tasks), set(info.tasks) - set(losses)
    if strange or (whole and absent):
        raise MTKError(
            f"expected losses of the step's tasks {', '.join(info.tasks)}; found {', '.join(losses) or 'none'}"
        )
    for name, loss in losses.items():
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise MTKError(f"task '{name}': expected its loss as a tensor with one number, found {found}")


def _built(combiner: GradientCombiner | str) -> GradientCombiner:
    if isinstance(combiner, GradientCombiner):
        return combiner
    if not isinstance(combiner, str):
        raise MTKError(f"combiner: expected a GradientCombiner or a text such as 'pcgrad', found {combiner!r}")
    from mtk.plugins import build, parse_spec

    name, options = parse_spec(combiner)
    built: GradientCombiner = build("combiner", name, **options)
    if built.looks_again:
        raise MTKError(
            f"combiner '{name}' looks at the losses again after the optimizer: build it once, pass the object, and "
            "call its after_step(losses, info)"
        )
    return built


def _name(combiner: GradientCombiner) -> str:
    from mtk.plugins import named

    return named(combiner)
