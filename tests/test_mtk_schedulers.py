from __future__ import annotations

import importlib
import math
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

import mtk_schedulers
from mtk import ConfigError, Progress, Scheduler, build
from mtk_schedulers.constant import Constant
from mtk_schedulers.cosine import Cosine
from mtk_schedulers.cyclic import Cyclic
from mtk_schedulers.inverse_sqrt import InverseSqrt
from mtk_schedulers.linear import Linear
from mtk_schedulers.step import Step
from mtk_schedulers.warm_up import warmup_steps

WARMED: list[type[Any]] = [Constant, Linear, Step, Cosine, InverseSqrt]  # a warm-up of any of them is the same one


def run(scheduler: Scheduler, total: int) -> list[float]:
    return [scheduler.factor(Progress(step, total)) for step in range(total + 1)]


def test_registers_what_it_has_and_imports_no_torch() -> None:
    found: dict[str, str] = {}
    mtk_schedulers.register_schedulers(lambda name, build, summary, **more: found.update({name: build}))
    assert list(found) == ["constant", "linear", "step", "cyclic", "cosine", "inverse-sqrt"]
    for target in found.values():
        module, attribute = target.split(":")
        assert issubclass(getattr(importlib.import_module(module), attribute), Scheduler)
    light = "import sys, mtk_schedulers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", light], check=False).returncode == 0


@pytest.mark.parametrize(
    ("scheduler", "total", "factors"),
    [
        (Constant(), 3, [1, 1, 1, 1]),
        (Constant(warmup=0.5), 4, [0.5, 1, 1, 1, 1]),
        (Constant(warmup=4), 6, [0.25, 0.5, 0.75, 1, 1, 1, 1]),
        (Linear(warmup=0), 4, [1, 0.75, 0.5, 0.25, 0]),
        (Linear(warmup=2), 6, [0.5, 1, 1, 0.75, 0.5, 0.25, 0]),
        (Linear(warmup=0.5, floor=0.2), 4, [0.5, 1, 1, 0.6, 0.2]),
        (Linear(warmup=1), 3, [1, 1, 0.5, 0]),
        (Linear(warmup=10), 3, [0.1, 0.2, 0.3, 0.4]),
        (Step(), 8, [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625]),
        (Step(), 10, [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125, 0.0625]),
        (Step(gamma=0.1, every=2), 5, [1, 1, 0.1, 0.1, 0.01, 0.01]),
        (Step(gamma=0.1, every=2, floor=0.05), 5, [1, 1, 0.1, 0.1, 0.05, 0.05]),
        (Step(every=0.5, warmup=2), 6, [0.5, 1, 1, 1, 0.5, 0.5, 0.25]),
        (Step(every=1, warmup=0.5), 4, [0.5, 1, 1, 0.5, 0.25]),
        (Step(gamma=1), 2, [1, 1, 1]),
        (Step(warmup=10), 3, [0.1, 0.2, 0.3, 0.4]),
        (Cyclic(cycles=1), 4, [0.25, 0.625, 1, 0.625, 0.25]),
        (Cyclic(low=0.2, high=2, cycles=2), 8, [0.2, 1.1, 2, 1.1, 0.2, 1.1, 2, 1.1, 0.2]),
        (Cyclic(low=0.4, stepsize=3), 7, [0.4, 0.6, 0.8, 1, 0.8, 0.6, 0.4, 0.6]),
        (Cyclic(), 4, [0.25, 1, 0.25, 1, 0.25]),
        (Cyclic(low=0.5, high=0.5), 2, [0.5, 0.5, 0.5]),
        (Cyclic(), 1, [0.25, 0.25]),
        (Cosine(warmup=0), 4, [1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0]),
        (Cosine(warmup=2), 5, [0.5, 1, 1, 0.75, 0.25, 0]),
        (Cosine(warmup=0.5, floor=0.2), 4, [0.5, 1, 1, 0.6, 0.2]),
        (Cosine(warmup=10), 3, [0.1, 0.2, 0.3, 0.4]),
        (
            InverseSqrt(warmup=4),
            16,
            [0.25, 0.5, 0.75, 1, *((4 / s) ** 0.5 for s in range(5, 16)), 0.5, (4 / 17) ** 0.5],
        ),
        (InverseSqrt(warmup=0), 4, [1, 0.5**0.5, 3**-0.5, 0.5, 5**-0.5]),
        (InverseSqrt(warmup=0.5), 4, [0.5, 1, (2 / 3) ** 0.5, 0.5**0.5, 0.4**0.5]),
        (InverseSqrt(warmup=10), 3, [0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_factors_by_hand(scheduler: Scheduler, total: int, factors: list[float]) -> None:
    assert run(scheduler, total) == pytest.approx(factors)


def test_fractions_are_of_the_run_and_one_or_more_are_steps() -> None:
    wanted = {(0.07, 100): 7, (0.1, 4): 0, (1.0, 100): 1, (30.0, 100): 30}
    assert {key: warmup_steps(*key) for key in wanted} == wanted


@pytest.mark.parametrize("warmup", [0.1, 0.3, 3, 20, 100])
@pytest.mark.parametrize("build", WARMED)
def test_one_warm_up_for_all(build: Callable[..., Scheduler], warmup: float) -> None:
    warm = warmup_steps(warmup, 30)
    assert run(build(warmup=warmup), 30)[:warm] == [(step + 1) / warm for step in range(min(warm, 31))]


@pytest.mark.parametrize(("total", "every"), [(30, 0.1), (1000, 0.1), (7, 0.3), (10, 0.7), (90, 1 / 3), (12, 5)])
def test_step_cuts_where_whole_numbers_say(total: int, every: float) -> None:
    """No cut comes a step late because of rounding: k cuts are done at the first step >= k times the length."""
    length = Fraction(every).limit_denominator(100) * (total if every < 1 else 1)
    assert run(Step(every=every), total) == [0.5 ** (step // length) for step in range(total + 1)]


@pytest.mark.parametrize(("total", "cycles"), [(60, 3), (61, 3), (1000, 7)])
def test_cyclic_fills_the_run_with_its_cycles(total: int, cycles: int) -> None:
    factors = run(Cyclic(cycles=cycles), total)
    turns = sum(a < b > c or a < b == c for a, b, c in zip(factors, factors[1:], factors[2:], strict=False))
    assert turns == cycles and factors[0] == factors[-1] == 0.25
    assert max(factors) <= 1 and max(factors) > 1 - 1.5 * cycles / total


def reference(make: Callable[[Any], Any], steps: int) -> list[float]:
    """The rates of a scheduler of PyTorch's kind for an optimizer with a rate of 1."""
    import torch

    torch.set_num_threads(1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("build", "theirs"), [(Linear, "get_linear_schedule_with_warmup"), (Cosine, "get_cosine_schedule_with_warmup")]
)
def test_equals_the_schedule_of_transformers_after_the_warm_up(build: Callable[..., Scheduler], theirs: str) -> None:
    """Ours is one step ahead during the warm-up, where theirs begins with a rate of 0."""
    transformers = pytest.importorskip("transformers")
    rates = reference(lambda optimizer: getattr(transformers, theirs)(optimizer, 3, 20), 21)
    ours = run(build(warmup=3), 20)
    assert ours[:3] == pytest.approx(rates[1:4])
    assert ours[3:] == pytest.approx(rates[3:])


def test_inverse_sqrt_equals_the_paper_and_transformers() -> None:
    """Equation 3, with steps from 1, over its largest value; transformers counts from a step 0 of rate 0."""
    transformers = pytest.importorskip("transformers")
    ours = run(InverseSqrt(warmup=5), 30)
    paper = [512**-0.5 * min(s**-0.5, s * 5**-1.5) for s in range(1, 32)]
    assert ours == pytest.approx([rate / max(paper) for rate in paper])
    assert ours == pytest.approx(reference(lambda o: transformers.get_inverse_sqrt_schedule(o, 5), 32)[1:])


def test_step_cyclic_and_cosine_equal_those_of_pytorch() -> None:
    from torch.optim import lr_scheduler as theirs

    ours = run(Step(gamma=0.3, every=4), 20)
    assert ours == pytest.approx(reference(lambda o: theirs.StepLR(o, step_size=4, gamma=0.3), 21))
    ours = run(Cyclic(low=0.1, high=0.7, stepsize=3), 20)
    cyclic = reference(lambda o: theirs.CyclicLR(o, 0.1, 0.7, step_size_up=3, cycle_momentum=False), 21)
    assert ours == pytest.approx(cyclic)
    ours = run(Cosine(warmup=0, floor=0.1), 20)
    assert ours == pytest.approx(reference(lambda o: theirs.CosineAnnealingLR(o, 20, eta_min=0.1), 21))


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.99, 1, 7, 5000])
@pytest.mark.parametrize("total", [0, 1, 2, 3, 17])
def test_factors_are_finite_within_bounds_and_rise_then_fall(warmup: float, total: int) -> None:
    floors = [make(warmup=warmup, floor=0.3) for make in (Linear, Step, Cosine)]
    for scheduler in [*(make(warmup=warmup) for make in WARMED), *floors]:
        factors = [scheduler.factor(Progress(step, total)) for step in range(total + 3)]
        assert all(math.isfinite(f) and 0 <= f <= 1 for f in factors)
        assert all(f > 0 for f in factors[:total])
        peak = factors.index(max(factors))
        assert factors[: peak + 1] == sorted(factors[: peak + 1])
        assert factors[peak:] == sorted(factors[peak:], reverse=True)


@pytest.mark.parametrize("warmup", [-0.1, 1.5, math.nan, math.inf])
@pytest.mark.parametrize("build", WARMED)
def test_refuses_a_wrong_warmup(build: Callable[..., Scheduler], warmup: float) -> None:
    with pytest.raises(ConfigError, match=rf"^warmup: expected .* found {warmup}$"):
        build(warmup=warmup)


@pytest.mark.parametrize("floor", [-0.1, 1.1, math.nan])
@pytest.mark.parametrize("build", [Linear, Step, Cosine])
def test_refuses_a_wrong_floor(build: Callable[..., Scheduler], floor: float) -> None:
    with pytest.raises(ConfigError, match=rf"^floor: expected .* found {floor}$"):
        build(floor=floor)


@pytest.mark.parametrize(
    ("make", "option", "values"),
    [
        (Step, "gamma", [0, -0.5, 1.1, math.nan, math.inf]),
        (Step, "every", [0, -1, 1.5, math.nan, math.inf]),
        (Cyclic, "high", [0, -1, math.nan, math.inf]),
        (Cyclic, "low", [0, -0.1, 1.1, math.nan]),
        (Cyclic, "cycles", [0, -1]),
        (Cyclic, "stepsize", [0, -1]),
    ],
)
def test_refuses_a_wrong_option(make: Callable[..., Scheduler], option: str, values: list[float]) -> None:
    for value in values:
        with pytest.raises(ConfigError, match=rf"^{option}: expected .* found {value}$"):
            make(**{option: value})


@pytest.mark.parametrize("total", [0, 1, 2, 3, 17])
@pytest.mark.parametrize("cycles", [1, 4, 100])
def test_cyclic_stays_within_its_bounds(cycles: int, total: int) -> None:
    factors = run(Cyclic(low=0.1, high=3, cycles=cycles), total + 2)
    assert all(0.1 <= f <= 3 + 1e-12 for f in factors)
    assert total < 2 or max(factors) > 0.1


def test_a_long_run_of_cuts_ends_at_0_without_an_error() -> None:
    for every in (1, 1e-320):  # a step at least
        assert Step(gamma=0.1, every=every).factor(Progress(10**6, 10**6)) == 0


def test_built_by_name_from_a_command_line() -> None:
    scheduler = build("scheduler", "linear", warmup="2", floor="0.5")
    assert run(scheduler, 4) == pytest.approx([0.5, 1, 1, 0.75, 0.5])
    with pytest.raises(ConfigError, match=r"^scheduler 'linear': warmup: expected .* found 1.5"):
        build("scheduler", "linear", warmup="1.5")
    stepped = build("scheduler", "step", gamma="0.1", every="2", warmup="1")
    assert run(stepped, 4) == pytest.approx([1, 1, 1, 0.1, 0.1])
    assert run(build("scheduler", "cyclic", stepsize="1"), 2) == pytest.approx([0.25, 1, 0.25])
    assert run(build("scheduler", "inverse-sqrt", warmup="1"), 3) == pytest.approx([1, 0.5**0.5, 3**-0.5, 0.5])
    with pytest.raises(ConfigError, match=r"^scheduler 'cyclic': low: expected .* at most high, 1.0, found 2.0"):
        build("scheduler", "cyclic", low="2")
