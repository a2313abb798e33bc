"""The sides of `combiners`: mtk's trainings that alternate, and peers' PCGrad in a loop by hand."""

from __future__ import annotations

import importlib
import importlib.util
import random
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import harness
import plain
import torch
from harness import JSON
from plain import TASKS, Multitask, Rows
from torch import Tensor, nn


def run(spec: JSON) -> JSON:
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    sides: dict[str, Callable[[JSON], JSON]] = {
        "needs": needs,
        "interleaved": interleaved,
        "memory": memory,
        "prepare": prepare,
        "peer": peer,
    }
    return sides[spec["side"]](spec)


def needs(spec: JSON) -> JSON:
    """What every registered combiner needs; in place of it why, where it cannot be built."""
    import mtk

    found = {}
    for name in mtk.registered("combiner"):
        try:
            found[name] = mtk.build("combiner", name, **options_of(name, ["any"])).needs
        except mtk.MTKError as error:
            found[name] = f"cannot be built: {error}"
    return found


def options_of(combiner: str, tasks: Sequence[str]) -> JSON:
    """The options that a combiner has no defaults for."""
    return {"weights": dict.fromkeys(tasks, 1.0)} if combiner == "weighted" else {}


def prepare(spec: JSON) -> JSON:
    plain.prepare(Path(spec["folder"]), spec["encoder"], spec["data"])
    return {}


def task_specs(count: int) -> list[str]:
    """`count` tasks: sst, quora, sts, and then the same again under other names."""
    kinds = [TASKS[i % len(TASKS)] for i in range(count)]
    return [kind if i < len(TASKS) else f"{kind}{i // len(TASKS) + 1}={kind}" for i, kind in enumerate(kinds)]


# ---------------------------------------------------------------------------------------------- mtk


def steppers(spec: JSON) -> dict[str, Any]:
    from ours import Stepper, start

    flat = {"batch_size": spec["batch"], "max_train_rows": spec["rows"], "precision": spec.get("precision", "bf16")}
    flat["diagnose"] = "none"  # a sum that now and then takes gradients by task would hide what these cost
    tasks = task_specs(spec["tasks"])
    names = [task.partition("=")[0] for task in tasks]
    chosen = {name: {"name": name, **options_of(name, names)} for name in spec["combiners"]}
    return {name: Stepper(start(spec, tasks, seed=1, combiner=own, **flat)) for name, own in chosen.items()}


def interleaved(spec: JSON) -> JSON:
    """Seconds of every combiner's steps: all make the same step over the same rows before any makes the next."""
    sides = steppers(spec)
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(spec["warm"] + spec["steps"]):
        first = turn % len(names)
        for name in [*names[first:], *names[:first]]:
            took = sides[name].step()
            if turn >= spec["warm"]:
                seconds[name].append(took)
    side = sides[names[0]]
    tokens = side.tokens(side.done[spec["warm"] :]) // spec["steps"]
    return {"seconds": seconds, "shared bytes": side.shared_bytes(), "tokens": tokens}


def memory(spec: JSON) -> JSON:
    """The peak of a fresh process's steps with one combiner."""
    (side,) = steppers(spec).values()
    side.run(1)
    harness.reset_peak(spec["device"])
    side.run(spec["warm"] + spec["steps"])
    return {"peak": harness.peak(spec["device"]), "shared bytes": side.shared_bytes()}


# ---------------------------------------------------------------------------------------------- peers


class Loop:
    """A loop by hand in float32, fused AdamW: plain sum, or a peer's PCGrad on the encoder's parameters.

    layout: `a forward a task` (each task's own batch), or `one forward` over all tasks' rows, padded together.
    """

    def __init__(self, spec: JSON) -> None:
        folder, self.device = Path(spec["folder"]), spec["device"]
        stored = plain.read(folder, limit=spec["rows"])
        kinds = {f"task{i}": TASKS[i % len(TASKS)] for i in range(spec["tasks"])}
        self.rows: dict[str, Rows] = {name: stored[kind] for name, kind in kinds.items()}
        self.model = Multitask(folder / "encoder", {name: rows.outputs for name, rows in self.rows.items()})
        self.model.to(self.device).train()
        self.fused = spec["layout"] == "one forward"
        self.shared = list(self.model.encoder.parameters())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=7e-5, fused=True)
        self.draws = {
            name: plain.batches(rows, spec["batch"], place, bucketed=True)
            for place, (name, rows) in enumerate(self.rows.items())
        }

    def draw(self) -> dict[str, list[int]]:
        return {name: next(draw) for name, draw in self.draws.items()}

    def forward(self, chosen: dict[str, list[int]]) -> tuple[list[Tensor], list[Tensor]]:
        """The tasks' losses, and the features [B, D] that they share: one tensor, or one a task."""
        if self.fused:
            parts = {name: (self.rows[name], rows) for name, rows in chosen.items()}
            batch, slices, labels = plain.fuse(parts, self.device)
            pooled = self.model.pooled(batch.ids, batch.types, batch.mask)
            outputs = [self.model.outputs(name, pooled[part]) for name, part in slices.items()]
            return [plain.mean_loss(out, own) for out, own in zip(outputs, labels, strict=True)], [pooled]
        losses, features = [], []
        for name, rows in chosen.items():
            own = plain.collate(self.rows[name], rows, self.device)
            features.append(self.model.pooled(own.ids, own.types, own.mask))
            losses.append(plain.mean_loss(self.model.outputs(name, features[-1]), own.labels))
        return losses, features

    def step(self, chosen: dict[str, list[int]], backward: Callable[[list[Tensor], list[Tensor]], None]) -> float:
        """One step; seconds, with the device at rest before and after."""
        harness.synchronise(self.device)
        begin = time.perf_counter()
        self.optimizer.zero_grad()
        backward(*self.forward(chosen))
        self.optimizer.step()
        harness.synchronise(self.device)
        return time.perf_counter() - begin


def peer(spec: JSON) -> JSON:
    """Seconds of plain and of PCGrad steps that alternate over the same batches; or of one kind, for its memory."""
    loop = Loop(spec)
    ways = {"sum": summed, "pcgrad": {"TorchJD": torchjd, "LibMTL": libmtl, "by hand": by_hand}[spec["peer"]](loop)}
    seconds: dict[str, list[float]] = {kind: [] for kind in spec["kinds"]}
    for turn in range(spec["warm"] + spec["steps"]):
        if turn == 1:
            harness.reset_peak(spec["device"])
        chosen = loop.draw()
        for kind in spec["kinds"] if turn % 2 else reversed(spec["kinds"]):
            took = loop.step(chosen, ways[kind])
            if turn >= spec["warm"]:
                seconds[kind].append(took)
    shared = 4 * sum(p.numel() for p in loop.shared)
    return {"seconds": seconds, "peak": harness.peak(spec["device"]), "shared bytes": shared}


def summed(losses: list[Tensor], features: list[Tensor]) -> None:
    torch.stack(losses).sum().backward()


def torchjd(loop: Loop) -> Callable[[list[Tensor], list[Tensor]], None]:
    """TorchJD: a Jacobian by `mtl_backward`, aggregated into `.grad`."""
    from torchjd.aggregation import PCGrad
    from torchjd.autojac import jac_to_grad, mtl_backward

    aggregator = PCGrad()
    heads = [list(head.parameters()) for head in loop.model.heads.values()]

    def backward(losses: list[Tensor], features: list[Tensor]) -> None:
        mtl_backward(losses, features=features, tasks_params=heads, shared_params=loop.shared)
        jac_to_grad(loop.shared, aggregator)

    return backward


def libmtl(loop: Loop) -> Callable[[list[Tensor], list[Tensor]], None]:
    """LibMTL's weighting, given the losses in one tensor, as its own trainer gives them."""
    found = importlib.util.find_spec("LibMTL")
    if found is None:
        raise ModuleNotFoundError("LibMTL")
    bare = types.ModuleType("LibMTL")  # its own __init__ imports vision models, and so torchvision
    bare.__path__ = list(found.submodule_search_locations or [])
    sys.modules["LibMTL"] = bare
    given: Any = importlib.import_module("LibMTL.weighting.PCGrad").PCGrad

    class Weighting(given):
        def get_share_params(self) -> Any:
            return loop.model.encoder.parameters()

        def zero_grad_share_params(self) -> None:
            loop.model.encoder.zero_grad(set_to_none=False)

    weighting = Weighting()
    weighting.task_num, weighting.device, weighting.rep_grad = len(loop.rows), loop.device, False

    def backward(losses: list[Tensor], features: list[Tensor]) -> None:
        weighting.backward(torch.stack(losses))

    return backward


def by_hand(loop: Loop) -> Callable[[list[Tensor], list[Tensor]], None]:
    """The way that the paper's algorithm reads: a backward a task, gradients flattened, cloned and projected."""
    draw = random.Random(0)

    def backward(losses: list[Tensor], features: list[Tensor]) -> None:
        flat = []
        for place, loss in enumerate(losses, start=1):
            for p in loop.shared:
                p.grad = None
            loss.backward(retain_graph=place < len(losses))
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in loop.shared]
            flat.append(nn.utils.parameters_to_vector(gradients))
        projected = []
        for i, own in enumerate(flat):
            kept = own.clone()
            for other in draw.sample([g for j, g in enumerate(flat) if j != i], len(flat) - 1):
                product = torch.dot(kept, other)
                if product < 0:
                    kept -= product / other.dot(other) * other
            projected.append(kept)
        total, at = torch.stack(projected).sum(0), 0
        for p in loop.shared:
            p.grad = total[at : at + p.numel()].view_as(p)
            at += p.numel()

    return backward
