"""The gradient engine: per-task losses in, one combined gradient in `.grad` out; `combine` is for any PyTorch loop.

It does the least work that serves the combiner: one plain backward for constant or loss weights; one backward a task
for weights from the Gramian or for element-wise combining. Head parameters never take part in surgery.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn

from mtk.capture import Capture, RowRanges, verify
from mtk.errors import MTKError
from mtk.gramian import Gradients, add, gramian, norm_of, scale
from mtk.interfaces import GradientCombiner, StepInfo


@dataclass(frozen=True, slots=True)
class GradientReport:
    """What became of one step's gradients. T is in the order of `tasks`.

    weights: [T] float64 CPU, what each task's shared gradient was multiplied with, clipping aside (element-wise: ones).
    gram: [T, T] float64 CPU, where the combiner needs it: before its gradient weights, after its loss weights.
    norm: of the whole gradient before clipping, where `max_norm` was given.
    conflicts: pairs i < j with gram[i, j] < 0, where there is a gram.
    """

    tasks: tuple[str, ...]
    weights: Tensor
    gram: Tensor | None = None
    norm: Tensor | float | None = None
    conflicts: int | None = None


class GradientEngine:
    """Combines the gradients of one step after the other: `start`, `backward` once a micro-batch, `finish`.

    shared: the parameters that the combiner acts on (ties are taken once; those frozen at `start` are left out).
    owned: each task's own parameters: part of the norm, clipped, and scaled by loss weights under accumulation.
    A parameter in both is shared; one that two tasks own belongs into `shared`. Raises MTKError otherwise.

    Shared `.grad` is emptied by `start` and overwritten by `finish`; other parameters' `.grad` is added to during
    `backward`, so the loop zeroes it. Sparse shared gradients of Gramian and element-wise combiners become dense.
    """

    def __init__(
        self,
        shared: Sequence[nn.Parameter],
        combiner: GradientCombiner,
        owned: Mapping[str, Sequence[nn.Parameter]] | None = None,
    ) -> None:
        if combiner.needs not in ("nothing", "losses", "gram", "gradients"):
            raise MTKError(
                f"{_name(combiner)}.needs: expected nothing, losses, gram or gradients, not {combiner.needs!r}"
            )
        self.combiner = combiner
        self._shared = list(dict.fromkeys(shared))
        if any(not isinstance(p, Tensor) or not p.is_leaf for p in self._shared):
            raise MTKError("shared: expected parameters, found something else; give for example model.parameters()")
        self._owned = None if owned is None else _split(owned, set(self._shared))
        self._info: StepInfo | None = None
        self._capture = Capture(p for p in self._shared if p.requires_grad)

    @property
    def shared(self) -> Sequence[nn.Parameter]:
        """The parameters that the combiner acts on."""
        return self._shared

    def start(self, info: StepInfo, micro_batches: int = 1) -> None:
        """Begins a step of `info.tasks`: all the tasks that are in any of its micro-batches.

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
        self._plain = needs == "nothing" or (needs == "losses" and micro_batches == 1)
        self._params = [p for p in self._shared if p.requires_grad]
        self._watched = self._held = False
        self._losses: dict[str, Tensor] = {}
        self._buffers: dict[str, Gradients] = {name: [None] * len(self._params) for name in info.tasks}
        for p in self._shared:
            p.grad = None
        self._scales: dict[str, Tensor] = {}  # of the losses, where a Gramian combiner has loss weights too
        asked = getattr(self.combiner.loss_weights, "__func__", None) is not GradientCombiner.loss_weights
        if needs == "nothing" or (needs == "gram" and asked):
            placeholder = torch.full((len(info.tasks),), torch.nan)  # who reads it after all gets NaN, and is told so
            weights = self.combiner.loss_weights(placeholder, info)
            self._weights = self._checked(weights, info, finite=True, unread=True)
            if needs == "gram":
                self._scales = dict(zip(info.tasks, self._weights, strict=True))

    def watch(self, ranges: RowRanges) -> AbstractContextManager[object]:
        """What to enter for the forward and the losses of a micro-batch whose tasks' rows lie as `ranges` says.

        `backward` then takes the tasks' gradients from one pass, as far as `mtk.capture` can tell the rows apart, and
        needs a pass a task for the rest. Where one plain backward serves the combiner anyway, nothing is watched. Other
        rows than a task's own must not feel its loss. Use: `with engine.watch(ranges): losses = ...`.
        """
        info = self._running()
        if self._plain or not self._params:
            return nullcontext()
        self._watched = True
        if self._capture.parameters != set(self._params):  # something froze or thawed
            self._capture = Capture(self._params)
        self._capture.begin(info.tasks, ranges)
        return self._capture

    def check(self, losses: Callable[[], Mapping[str, Tensor]], ranges: RowRanges) -> list[nn.Parameter]:
        """Compares what `watch` gives with a plain backward a task; what differs takes those from then on.

        losses: see `mtk.capture.verify`. Returns the parameters that take a backward a task; none where one plain
        backward serves the combiner anyway.
        """
        if self.combiner.needs in ("nothing", "losses") or not self._capture.parameters:
            return []
        return verify(self._capture, losses, ranges)

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
        if self._plain and self.combiner.needs == "losses":
            self._weights = self._checked(self.combiner.loss_weights(self._summed(info), info), info)
        reach = {name: loss for name, loss in present.items() if loss.requires_grad}
        if self._plain:
            weights = dict(zip(info.tasks, self._weights, strict=True))
            _backward(list(reach.values()), [_like(loss, weights[name]) for name, loss in reach.items()])
        elif not self._params:
            _backward(list(reach.values()), [_like(loss, self._scales.get(name)) for name, loss in reach.items()])
        elif self._watched:
            self._backward_at_once(reach)
        else:
            for place, (name, loss) in enumerate(reach.items(), start=1):
                torch.autograd.backward(loss, _like(loss, self._scales.get(name)), retain_graph=place < len(reach))
                add(self._buffers[name], self._take())

    def _backward_at_once(self, reach: Mapping[str, Tensor]) -> None:
        """One backward for all tasks, and one a task for parameters of which autograd still has gradients."""
        capture, self._watched = self._capture, False
        scales = [_like(loss, self._scales.get(name)) for name, loss in reach.items()]
        if reach:
            torch.autograd.backward(list(reach.values()), scales, retain_graph=not capture.whole)
        others = [p for p in self._params if p.grad is not None]
        for p in others:
            p.grad = None
        places = [place for place, p in enumerate(self._params) if p in set(others)]
        capture.recording = False
        for (name, loss), weight in zip(reach.items(), scales if others else (), strict=bool(others)):
            more: Gradients = [None] * len(self._params)
            found = torch.autograd.grad(loss, others, weight, retain_graph=True, allow_unused=True)
            for place, g in zip(places, found, strict=True):
                more[place] = None if g is None else (g.to_dense() if g.is_sparse else g).clone()
            add(self._buffers[name], more)
        capture.recording = True
        self._held = self.combiner.needs == "gram" and self._micro_batches == 1
        for place in places if self._held else range(len(self._params)):
            for name, g in zip(self._buffers, capture.release(self._params[place]) or (), strict=False):
                column: Gradients = [None] * len(self._params)
                column[place] = g
                add(self._buffers[name], column)

    def finish(self, max_norm: float | None = None) -> GradientReport:
        """Leaves the combined gradient in `.grad`, clipped to the norm `max_norm` over shared and owned parameters.

        Raises MTKError where the step is not complete, or a task's shared gradient is not finite (Gramian combiners).
        """
        info = self._running()
        missing = [name for name in info.tasks if name not in self._losses]
        if self._done != self._micro_batches or missing:
            raise MTKError(
                f"the step is not complete: {self._done} of {self._micro_batches} micro-batches, "
                f"{'no loss for ' + ', '.join(missing) if missing else 'a loss for every task'}; call backward for each"
            )
        self._info = None
        if self.combiner.needs == "gram":
            return self._finish_gram(info, max_norm)
        if self.combiner.needs == "gradients":
            weights = torch.ones(len(info.tasks))
            self._combine_chunks(info)
        elif self._plain:
            weights = self._weights
        else:
            weights = self._checked(self.combiner.loss_weights(self._summed(info), info), info)
            self._write(info, weights.tolist())
            for name, weight in zip(info.tasks, weights.tolist(), strict=True):
                scale((self._owned or {})[name], weight)
        norm = None if max_norm is None else nn.utils.clip_grad_norm_([*self._params, *self._heads()], max_norm)
        return GradientReport(info.tasks, weights.cpu().double(), norm=norm)

    def _finish_gram(self, info: StepInfo, max_norm: float | None) -> GradientReport:
        gram = gramian([self._buffers[name] for name in info.tasks])
        if self._held:
            gram = gram + self._capture.gram()
        bad = [name for name, finite in zip(info.tasks, gram.diagonal().isfinite(), strict=True) if not finite]
        if bad:
            raise MTKError(
                f"step {info.step + 1}: the gradient of task {' and '.join(map(repr, bad))} is not finite; "
                "try a lower learning rate or fp32 precision, and look at the task's labels"
            )
        weights = torch.ones(len(info.tasks), dtype=torch.float64)
        if self._params:  # with a frozen encoder there is nothing to combine, and a combiner's state is left alone
            losses = self._summed(info).cpu().double()
            weights = self._checked(self.combiner.gradient_weights(gram.clone(), losses, info), info, finite=True)
            weights = weights.cpu().double()
        norm, factor = None, 1.0
        if max_norm is not None:
            norm = (max(0.0, float(weights @ gram @ weights)) + norm_of(self._heads()) ** 2) ** 0.5
            factor = max_norm / (norm + 1e-6)  # as torch.nn.utils.clip_grad_norm_ has it
            factor = 1.0 if factor >= 1.0 else factor
            scale(self._heads(), factor)
        self._write(info, (weights * factor).tolist())
        conflicts = int((gram.triu(1) < 0).sum())
        if self._scales:
            weights = weights * self._weights.cpu().double()
        return GradientReport(info.tasks, weights, gram, norm, conflicts)

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
            if out.shape != zero.shape:
                raise MTKError(
                    f"{_name(self.combiner)}.combine: expected a chunk of shape {tuple(zero.shape)} from "
                    f"{tuple(chunk.shape)}, found {tuple(out.shape)}"
                )
            p.grad = torch.empty_like(p, requires_grad=False).copy_(out.detach().reshape(p.shape))

    def _write(self, info: StepInfo, weights: Sequence[float]) -> None:
        """The weighted sum, formed in the first task's buffers, as the shared `.grad`."""
        total: Gradients = [None] * len(self._params)
        for name, weight in zip(info.tasks, weights, strict=True):
            add(total, self._buffers.pop(name), weight)
        held = self._capture.combined(weights) if self._held else {}
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
        report = engine.finish(max_norm)
    except BaseException:
        for p, g in before.items():
            p.grad = g
        raise
    for p, g in before.items():
        if g is not None:
            p.grad = g if p.grad is None else g.add_(p.grad)
    return report


def _like(loss: Tensor, weight: Tensor | None) -> Tensor:
    """The weight, one where there is none, as what `backward` starts with at the loss."""
    return torch.ones_like(loss) if weight is None else weight.to(loss).reshape(loss.shape)


def _backward(losses: list[Tensor], weights: list[Tensor]) -> None:
    if losses:
        torch.autograd.backward(losses, weights)


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
    return type(combiner).__name__
