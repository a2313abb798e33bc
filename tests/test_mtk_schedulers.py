from __future__ import annotations

import importlib
import math
import subprocess
import sys

import pytest

import mtk_schedulers
from mtk import ConfigError, Progress, Scheduler, build
from mtk_schedulers.constant import Constant
from mtk_schedulers.linear import Linear
from mtk_schedulers.warm_up import warmup_steps


def run(scheduler: Scheduler, total: int) -> list[float]:
    return [scheduler.factor(Progress(step, total)) for step in range(total + 1)]


def test_registers_what_it_has_and_imports_no_torch() -> None:
    found: dict[str, str] = {}
    mtk_schedulers.register_schedulers(lambda name, build, summary, **more: found.update({name: build}))
    assert list(found) == ["constant", "linear"]
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
    ],
)
def test_factors_by_hand(scheduler: Scheduler, total: int, factors: list[float]) -> None:
    assert run(scheduler, total) == pytest.approx(factors)


def test_fractions_are_of_the_run_and_one_or_more_are_steps() -> None:
    wanted = {(0.07, 100): 7, (0.1, 4): 0, (1.0, 100): 1, (30.0, 100): 30}
    assert {key: warmup_steps(*key) for key in wanted} == wanted


def test_linear_equals_the_schedule_of_transformers_after_the_warm_up() -> None:
    """Ours is one step ahead during the warm-up, where theirs begins with a rate of 0."""
    transformers = pytest.importorskip("transformers")
    import torch

    torch.set_num_threads(1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = transformers.get_linear_schedule_with_warmup(optimizer, 3, 20)
    theirs = []
    for _ in range(21):
        theirs.append(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()
    ours = run(Linear(warmup=3), 20)
    assert ours[:3] == pytest.approx(theirs[1:4])
    assert ours[3:] == pytest.approx(theirs[3:])


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.99, 1, 7, 5000])
@pytest.mark.parametrize("total", [0, 1, 2, 3, 17])
def test_factors_are_finite_within_bounds_and_rise_then_fall(warmup: float, total: int) -> None:
    for scheduler in (Constant(warmup=warmup), Linear(warmup=warmup), Linear(warmup=warmup, floor=0.3)):
        factors = [scheduler.factor(Progress(step, total)) for step in range(total + 3)]
        assert all(math.isfinite(f) and 0 <= f <= 1 for f in factors)
        assert all(f > 0 for f in factors[:total])
        peak = factors.index(max(factors))
        assert factors[: peak + 1] == sorted(factors[: peak + 1])
        assert factors[peak:] == sorted(factors[peak:], reverse=True)


@pytest.mark.parametrize("warmup", [-0.1, 1.5, math.nan, math.inf])
@pytest.mark.parametrize("build", [Constant, Linear])
def test_refuses_a_wrong_warmup(build: type[Constant | Linear], warmup: float) -> None:
    with pytest.raises(ConfigError, match=rf"^warmup: expected .* found {warmup}$"):
        build(warmup=warmup)


@pytest.mark.parametrize("floor", [-0.1, 1.1, math.nan])
def test_refuses_a_wrong_floor(floor: float) -> None:
    with pytest.raises(ConfigError, match=rf"^floor: expected .* found {floor}$"):
        Linear(floor=floor)


def test_built_by_name_from_a_command_line() -> None:
    scheduler = build("scheduler", "linear", warmup="2", floor="0.5")
    assert run(scheduler, 4) == pytest.approx([0.5, 1, 1, 0.75, 0.5])
    with pytest.raises(ConfigError, match=r"^scheduler 'linear': warmup: expected .* found 1.5"):
        build("scheduler", "linear", warmup="1.5")
