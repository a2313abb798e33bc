"""Checks of combiners, schedulers and mixers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtk.errors import MTKError
from mtk.gradients import check_needs
from mtk.interfaces import GradientCombiner, Mixer, Progress, Scheduler, StepInfo
from mtk.testing.randomness import global_seed, seeded

TASKS = ("first", "second", "third")
PARAMETERS = 24  # P of the toy gradients


def check_combiner(make: Callable[[], GradientCombiner]) -> None:
    """A combiner's shapes, determinism, checkpointing, and its answers where gradients are zero, opposed or alone.

    make: builds a fresh one. Raises AssertionError.
    """
    try:
        check_needs(make())
    except MTKError as error:
        raise AssertionError(str(error)) from None
    gradients = torch.randn(3, PARAMETERS, generator=seeded(0))  # [T, P]
    losses = torch.tensor([0.5, 2.0, 1.0])
    cases = {
        "three tasks": gradients,
        "two tasks": gradients[:2],
        "zero gradients": torch.zeros(3, PARAMETERS),
        "one zero gradient": gradients * torch.tensor([[1.0], [0.0], [1.0]]),
        "equal gradients": gradients[:1].repeat(3, 1),
        "opposed gradients": torch.stack([gradients[0], -gradients[0]]),
        "tiny gradients": gradients * 1e-10,
        "huge gradients": gradients * 1e10,
    }
    for name, case in cases.items():
        update = _steps(make(), [case], losses)[0]
        assert torch.isfinite(update).all(), f"{name}: the update is not finite: {update}"
        assert case.any() or not update.any(), f"{name}: the update is not zero: {update}"
    _steps(make(), [gradients], torch.zeros(3))
    alone = _steps(make(), [gradients[:1]], losses)[0]
    assert alone @ gradients[0] > 0, "one task (T = 1): the update does not point along its gradient"
    _check_repeats(make, [gradients, gradients[:2], gradients.flip(0)], losses)
    _check_chunks(make, gradients)


def _steps(
    combiner: GradientCombiner, steps: Sequence[Tensor], losses: Tensor, first: int = 0, seed: int = 0
) -> list[Tensor]:
    """The update [P] of each step, which has gradients [T, P] of the first T tasks."""
    updates = []
    for number, gradients in enumerate(steps, start=first):
        info = StepInfo(TASKS[: len(gradients)], number, number // 2, seeded(seed + number))
        given = losses[: len(gradients)] / (number + 1)
        updates.append(_update(combiner, gradients, given, info))
        if combiner.looks_again:
            combiner.after_step(given * 0.9, info)
    return updates


def _update(combiner: GradientCombiner, gradients: Tensor, losses: Tensor, info: StepInfo) -> Tensor:
    """What the engine does with one step: the sum of weighted gradients, or what `combine` gives. [T, P] -> [P]"""
    given_gradients, kept = gradients, (gradients.clone(), losses.clone())
    if combiner.needs == "gradients":
        update = combiner.combine(gradients, info)
        assert update.shape == gradients.shape[1:], f"combine: expected shape [n], found {list(update.shape)}"
    else:
        if combiner.needs == "gram":
            scales = combiner.loss_weights(torch.full_like(losses, torch.nan), info).to(
                gradients.dtype
            )  # ones, if none
            gradients = scales.unsqueeze(1) * gradients
            gram = gradients.double() @ gradients.double().T  # [T, P] -> [T, T]
            given = gram.clone()
            weights = combiner.gradient_weights(given, losses, info)
            assert weights.dtype == torch.float64, f"gradient_weights: expected float64, found {weights.dtype}"
            assert torch.equal(given, gram), "the Gramian was changed"
        else:
            weights = combiner.loss_weights(losses, info)
            assert (weights >= 0).all(), f"loss_weights: expected no negative weight, found {weights.tolist()}"
        expected = f"weights: expected {len(info.tasks)} finite numbers [T], found {weights}"
        assert weights.shape == losses.shape and torch.isfinite(weights).all(), expected
        assert not weights.requires_grad, "weights: expected them detached"
        update = (weights.double() @ gradients.double()).to(gradients.dtype)
    assert torch.equal(kept[0], given_gradients) and torch.equal(kept[1], losses), (
        "the gradients or losses were changed"
    )
    return update


def _check_repeats(make: Callable[[], GradientCombiner], steps: Sequence[Tensor], losses: Tensor) -> None:
    """The same under the same generator, whatever the global ones; and the same after a checkpoint."""
    with global_seed(1):
        combiner = make()
        wanted = _steps(combiner, steps, losses)
        state = copy.deepcopy(combiner.state_dict())
        later = _steps(combiner, steps, losses, first=len(steps))
    with global_seed(2):
        again = _steps(make(), steps, losses)
        assert all(map(torch.equal, wanted, again)), "the same seed gives other updates: draw from info.generator only"
        _check_plain(state, "state_dict()")
        resumed = make()
        resumed.load_state_dict(state)
        after = _steps(resumed, steps, losses, first=len(steps))
    assert all(map(torch.equal, later, after)), "after load_state_dict the updates differ from those of going on"


def _check_plain(state: Any, place: str) -> None:
    """Tensors, numbers, strings and containers: what a checkpoint holds without pickling code."""
    if isinstance(state, Mapping):
        for key, value in state.items():
            assert isinstance(key, (str, int)), f"{place}: expected names as keys, found {key!r}"
            _check_plain(value, f"{place}[{key!r}]")
    elif isinstance(state, (list, tuple)):
        for i, value in enumerate(state):
            _check_plain(value, f"{place}[{i}]")
    else:
        sound = state is None or isinstance(state, (Tensor, bool, int, float, str))
        assert sound, (
            f"{place}: expected tensors, numbers, strings and containers of them, found {type(state).__name__}"
        )


def _check_chunks(make: Callable[[], GradientCombiner], gradients: Tensor) -> None:
    """`combine` is element-wise: chunks give what the whole gives, unless it draws; none gives none."""
    if make().needs != "gradients":
        return
    generator = seeded(0)
    before = generator.get_state()
    info = StepInfo(TASKS, 0, 0, generator)
    empty = make().combine(gradients[:, :0], info)
    assert empty.shape == (0,), f"combine: expected shape [0] of an empty chunk, found {list(empty.shape)}"
    whole, combiner = make().combine(gradients, info), make()
    parts = torch.cat([combiner.combine(chunk, info) for chunk in gradients.split(7, dim=1)])
    if torch.equal(before, generator.get_state()):
        assert torch.allclose(whole, parts), "combine: chunks of the parameters give another update than the whole"


def check_scheduler(make: Callable[[], Scheduler]) -> None:
    """A schedule's factors: finite, never negative, not all zero, and a function of progress alone.

    make: builds a fresh one. Raises AssertionError.
    """
    for total in (1, 2, 7, 100):
        scheduler = make()
        steps = [Progress(step, total) for step in range(total + 1)]
        factors = [scheduler.factor(progress) for progress in steps]
        for progress, factor in zip(steps, factors, strict=True):
            assert math.isfinite(factor) and factor >= 0, f"{progress}: expected a factor >= 0, found {factor}"
        assert max(factors[:total]) > 0, f"a run of {total} steps never moves: every factor is 0"
        backwards = [scheduler.factor(progress) for progress in reversed(steps)]
        assert backwards[::-1] == factors, "the factor of the same progress changes from call to call"
        assert [make().factor(progress) for progress in steps] == factors, "a fresh schedule gives other factors"


def check_mixer(make: Callable[[], Mixer], sizes: Mapping[str, int] | None = None) -> None:
    """A mixer's row counts: a pure function that gives every task a whole number of rows, and some task at least one.

    make: builds a fresh one. sizes: further sizes that it must serve. Raises AssertionError.
    """
    cases = [sizes] if sizes else [{"small": 10, "large": 1000, "one": 1}, {"alone": 1}, {"same": 5, "equal": 5}]
    for case in cases:
        for epochs in (1, 4):
            mixer = make()
            answers = [_rows(mixer, case, epoch, epochs, 1) for epoch in range(epochs)]
            others = [_rows(mixer, case, epoch, epochs, 2) for epoch in reversed(range(epochs))]
            assert answers == others[::-1], f"{case}: the same arguments and seed give other rows at another time"
            assert answers[0] == _rows(make(), case, 0, epochs, 3), f"{case}: a fresh mixer gives other rows"


def _rows(mixer: Mixer, sizes: Mapping[str, int], epoch: int, epochs: int, global_: int) -> dict[str, int]:
    given = dict(sizes)
    with global_seed(global_):
        rows = mixer.rows(given, epoch, epochs, seeded(epoch))
    assert given == sizes, "the sizes were changed"
    assert set(rows) == set(sizes), f"expected rows of the tasks {sorted(sizes)}, found {sorted(rows)}"
    for task, count in rows.items():
        assert type(count) is int and count >= 0, f"task '{task}': expected a whole number of rows, found {count!r}"
    assert sum(rows.values()) > 0, f"epoch {epoch} has no rows at all, of sizes {sizes}"
    return rows
