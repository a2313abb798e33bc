"""GradDrop: at each parameter one sign is drawn, and gradients of the other sign are dropped."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mtk import ConfigError, GradientCombiner, StepInfo


def graddrop(chunk: Tensor, uniform: Tensor, leak: Tensor | None = None) -> Tensor:
    """The sum of the gradients that have the drawn sign: chunk [T, n], uniform [n] in [0, 1) -> [n].

    Where the share of positive gradients, P = (1 + sum(g) / sum(|g|)) / 2, exceeds `uniform` the positive ones are
    kept, else the negative ones: in expectation the update is the sum. leak [T]: the part of a task's gradient that
    passes whatever its sign. Chen et al., Just Pick a Sign, arXiv 2010.06808, algorithm 1, lines 10 to 15.
    """
    positive, negative = chunk.clamp(min=0), chunk.clamp(max=0)
    up, down = positive.sum(0), negative.sum(0)
    keep = up > uniform * (up - down)  # P > uniform, without a division by zero
    if leak is not None:
        return torch.where(keep, up + leak @ negative, down + leak @ positive)
    return torch.where(keep, up, down)


class GradDrop(GradientCombiner):
    """Keeps one sign of the gradients at each parameter, drawn by its share (arXiv 2010.06808, algorithm 1).

    leak: the part of every gradient that passes in any case, from 0 to 1, where it is the plain sum. per_task: the
    leaks of single tasks, in its place, by name (`leak=0,per_task={"sst": 0.2}`).
    The paper acts on the gradients of an activation, and multiplies them with its sign; this acts on the gradients of
    the shared parameters, as TorchJD and others do, without that product. The function f is the identity.
    One uniform number a parameter is drawn from the step's generator; on another device than the generator's from one
    seeded by it, so that a run repeats on its kind of device. Heads are left as they are.
    """

    needs = "gradients"

    def __init__(self, *, leak: float = 0.0, per_task: Mapping[str, float] | None = None) -> None:
        self.leak, self.per_task = leak, dict(per_task or {})
        for option, part in {
            "leak": leak,
            **{f"per_task: {task}": part for task, part in self.per_task.items()},
        }.items():
            if not 0 <= part <= 1:
                raise ConfigError(f"{option}: expected a number from 0 to 1, found {part}")

    def combine(self, chunk: Tensor, info: StepInfo) -> Tensor:
        """chunk [T, n] -> [n]."""
        leaks = [self.per_task.get(task, self.leak) for task in info.tasks]
        leak = torch.tensor(leaks, dtype=chunk.dtype, device=chunk.device) if any(leaks) else None
        return graddrop(chunk, _uniform(chunk, info.generator), leak)


def _uniform(chunk: Tensor, generator: torch.Generator) -> Tensor:
    if generator.device != chunk.device:
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        generator = torch.Generator(chunk.device).manual_seed(seed)
    return torch.rand(chunk.shape[1], generator=generator, device=chunk.device)
