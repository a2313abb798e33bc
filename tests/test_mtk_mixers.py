from __future__ import annotations

import importlib
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

import mtk_mixers
from mtk import ConfigError, Mixer, build
from mtk.plugins import parse_spec
from mtk_mixers.all import All
from mtk_mixers.annealed import Annealed, annealed_exponent
from mtk_mixers.capped import Capped
from mtk_mixers.proportional import Proportional
from mtk_mixers.shares import size_shares, whole_rows
from mtk_mixers.sqrt import Sqrt
from mtk_mixers.temperature import Temperature

SIZES = {"sst": 8544, "quora": 20000, "sts": 6040, "empty": 0}
REAL = {"sst": 8544, "quora": 283003, "sts": 6040}
SHARED: list[type[Any]] = [Proportional, Sqrt, Temperature, Annealed]  # those that divide an epoch by shares


def test_registers_what_it_has_and_imports_no_torch() -> None:
    found: dict[str, str] = {}
    mtk_mixers.register_mixers(lambda name, build, summary, **more: found.update({name: build}))
    assert list(found) == ["all", "capped", "proportional", "sqrt", "temperature", "annealed"]
    for target in found.values():
        module, attribute = target.split(":")
        assert issubclass(getattr(importlib.import_module(module), attribute), Mixer)
    light = "import sys, mtk_mixers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", light], check=False).returncode == 0


def test_all_gives_every_row_once() -> None:
    assert All().rows(SIZES, 0, 3, torch.Generator()) == SIZES


def test_capped_by_hand() -> None:
    generator = torch.Generator()
    assert Capped().rows(SIZES, 0, 3, generator) == {"sst": 8000, "quora": 8000, "sts": 6040, "empty": 0}
    assert Capped(rows=6000).rows(SIZES, 2, 3, generator) == {"sst": 6000, "quora": 6000, "sts": 6000, "empty": 0}


def test_capped_takes_a_cap_for_single_tasks() -> None:
    generator = torch.Generator()
    rows = Capped(rows=7000, per_task={"quora": 6000, "sst": 9000}).rows(SIZES, 0, 3, generator)
    assert rows == {"sst": 8544, "quora": 6000, "sts": 6040, "empty": 0}
    only = Capped(rows=None, per_task={"quora": 6000}).rows(SIZES, 0, 3, generator)
    assert only == {**SIZES, "quora": 6000}


def test_capped_from_a_command_line() -> None:
    name, options = parse_spec('capped:rows=none,per_task={"quora": 6000, "sts": 3000}')
    rows = build("mixer", name, **options).rows(SIZES, 0, 3, torch.Generator())
    assert rows == {**SIZES, "quora": 6000, "sts": 3000}


@pytest.mark.parametrize("mixer", [*(make() for make in SHARED), *(make(total=40) for make in SHARED)])
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_shares_are_a_pure_function_that_draws_nothing(mixer: Mixer, epoch: int) -> None:
    generator, sizes = torch.Generator().manual_seed(0), dict(SIZES)
    before = generator.get_state()
    first = mixer.rows(sizes, epoch, 3, generator)
    assert first == mixer.rows(sizes, epoch, 3, generator) and sizes == SIZES
    assert torch.equal(generator.get_state(), before)
    assert list(first) == list(sizes) and all(type(rows) is int for rows in first.values())


@pytest.mark.parametrize("mixer", [All(), Capped(rows=7000), Capped(rows=None, per_task={"sts": 9})])
def test_rows_are_a_pure_function_and_never_more_than_the_size(mixer: Mixer) -> None:
    generator, sizes = torch.Generator().manual_seed(0), dict(SIZES)
    before = generator.get_state()
    first = mixer.rows(sizes, 0, 3, generator)
    assert first == mixer.rows(sizes, 0, 3, generator) and first is not sizes and sizes == SIZES
    assert torch.equal(generator.get_state(), before)
    assert list(first) == list(sizes) and all(0 <= first[task] <= sizes[task] for task in sizes)


@pytest.mark.parametrize(("options", "named"), [({"rows": 0}, "rows"), ({"per_task": {"sts": 0}}, "per_task: sts")])
def test_capped_refuses_no_rows(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{named}: expected at least 1 row an epoch, found 0$"):
        Capped(**options)


def test_capped_refuses_a_task_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"no task 'qoura' is trained; did you mean 'quora'\?$"):
        Capped(per_task={"qoura": 5}).rows(SIZES, 0, 3, torch.Generator())


# ---------------------------------------------------------------------------------------------- shares of an epoch


def rows_of(mixer: Mixer, sizes: dict[str, int], epoch: int = 0, epochs: int = 1) -> dict[str, int]:
    return mixer.rows(sizes, epoch, epochs, torch.Generator())


@pytest.mark.parametrize(
    ("exponent", "shares"),
    [
        (1, {"a": 1 / 21, "b": 4 / 21, "c": 16 / 21, "none": 0}),
        (0.5, {"a": 1 / 7, "b": 2 / 7, "c": 4 / 7, "none": 0}),
        (0, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3, "none": 0}),
        (2, {"a": 1 / 273, "b": 16 / 273, "c": 256 / 273, "none": 0}),
    ],
)
def test_shares_by_hand(exponent: float, shares: dict[str, float]) -> None:
    assert size_shares({"a": 100, "b": 400, "c": 1600, "none": 0}, exponent) == pytest.approx(shares)


def test_shares_are_the_papers_probabilities() -> None:
    """p_i = N_i^alpha / sum N_j^alpha as BERT and PALs has it, on its own sizes of the tasks of GLUE."""
    sizes = dict(enumerate([6680, 2865, 306798, 1945, 4491, 52616, 284257, 84715]))
    named = {str(task): size for task, size in sizes.items()}
    for alpha in (1.0, 0.8, 0.5, 0.2, 0.0):
        powers = np.array(list(sizes.values()), float) ** alpha
        assert list(size_shares(named, alpha).values()) == pytest.approx(powers / powers.sum(), rel=1e-12)
    assert [annealed_exponent(e - 1, 5, 1.0, 0.2) for e in range(1, 6)] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])


def test_no_rows_no_shares_and_no_overflow() -> None:
    assert size_shares({"a": 0}, 1.0) == {"a": 0} and size_shares({}, 1.0) == {}
    assert size_shares({"a": 10**9, "b": 10**9, "c": 1}, 1e300) == pytest.approx({"a": 0.5, "b": 0.5, "c": 0})
    assert rows_of(Temperature(temperature=1e-320), {"a": 9000, "b": 1}) == {"a": 8000, "b": 1}
    for make in SHARED:
        assert rows_of(make(), {"a": 0, "b": 0}) == {"a": 0, "b": 0}
        assert rows_of(make(), {"alone": 3}) == {"alone": 3}


@pytest.mark.parametrize(
    ("shares", "total", "rows"),
    [
        ([0.5, 0.3, 0.2], 10, [5, 3, 2]),
        ([0.5, 0.3, 0.2], 11, [6, 3, 2]),  # 5.5, 3.3, 2.2
        ([0.46, 0.34, 0.2], 10, [5, 3, 2]),  # 4.6, 3.4, 2.0
        ([1 / 3, 1 / 3, 1 / 3], 100, [34, 33, 33]),
        ([1 / 3, 1 / 3, 1 / 3], 101, [34, 34, 33]),
        ([0.98, 0.01, 0.01, 0.0], 10, [8, 1, 1, 0]),  # one row at least
        ([0.98, 0.01, 0.01], 3, [1, 1, 1]),
        ([0.0, 0.0], 0, [0, 0]),
    ],
)
def test_whole_rows_by_hand(shares: list[float], total: int, rows: list[int]) -> None:
    names = "abcd"[: len(shares)]
    assert list(whole_rows(dict(zip(names, shares, strict=True)), total).values()) == rows


def test_rows_sum_to_the_total_and_are_less_than_one_off() -> None:
    draw = torch.Generator().manual_seed(3)
    for trial in range(300):
        sizes = {str(i): int(n) for i, n in enumerate(torch.randint(50, 300000, (trial % 7 + 1,), generator=draw))}
        exponent = torch.rand(1, generator=draw).item()
        total = int(torch.randint(1, 100000, (1,), generator=draw)) + 7
        shares = size_shares(sizes, exponent)
        rows = whole_rows(shares, total)
        assert sum(rows.values()) == total and min(rows.values()) >= 1
        if min(shares.values()) * total >= 1:
            assert all(abs(rows[task] - share * total) < 1 for task, share in shares.items())


@pytest.mark.parametrize(
    ("mixer", "rows"),
    [
        (Proportional(total=29759), {"sst": 854, "quora": 28301, "sts": 604}),  # 854.4, 28300.6, 604.0
        (Sqrt(total=7000), {"sst": 921, "quora": 5304, "sts": 775}),  # 921.4, 5303.9, 774.7
        (Temperature(total=7000), {"sst": 921, "quora": 5304, "sts": 775}),
        (Temperature(temperature=1, total=29759), {"sst": 854, "quora": 28301, "sts": 604}),
        (Temperature(temperature=1e9, total=7000), {"sst": 2333, "quora": 2334, "sts": 2333}),
        (Annealed(total=29759), {"sst": 854, "quora": 28301, "sts": 604}),
    ],
)
def test_rows_by_hand(mixer: Mixer, rows: dict[str, int]) -> None:
    assert rows_of(mixer, REAL) == rows


def test_annealed_goes_from_proportional_towards_equal() -> None:
    epochs = [rows_of(Annealed(total=7000), REAL, epoch, 5) for epoch in range(5)]
    assert epochs[0] == rows_of(Proportional(total=7000), REAL)
    for epoch, alpha in enumerate((1, 0.8, 0.6, 0.4, 0.2)):
        shares = size_shares(REAL, alpha)
        assert all(abs(epochs[epoch][task] - 7000 * shares[task]) < 1 for task in REAL)
    assert [rows["sts"] for rows in epochs] == sorted(rows["sts"] for rows in epochs)
    assert rows_of(Annealed(start=0.5, end=0.5, total=7000), REAL, 3, 5) == rows_of(Sqrt(total=7000), REAL)
    assert rows_of(Annealed(end=0, total=6999), REAL, 4, 5) == {"sst": 2333, "quora": 2333, "sts": 2333}


def test_annealed_over_one_epoch_and_beyond_the_last() -> None:
    assert [annealed_exponent(epoch, 1, 1.0, 0.2) for epoch in (0, 1)] == pytest.approx([1.0, 0.2])
    assert annealed_exponent(7, 5, 1.0, 0.2) == pytest.approx(0.2)
    assert annealed_exponent(1, 2, 1.0, 0.2) == pytest.approx(0.2)


@pytest.mark.parametrize("make", SHARED)
@pytest.mark.parametrize("sizes", [SIZES, REAL, {"a": 10, "b": 1000, "c": 1}, {"tiny": 1, "huge": 10**7}])
def test_an_epoch_has_as_many_rows_as_capped_gives(make: type[Any], sizes: dict[str, int]) -> None:
    """By default; and whatever the sizes, a task that has rows gets one."""
    for epoch in range(3):
        rows = rows_of(make(), sizes, epoch, 3)
        assert sum(rows.values()) == sum(rows_of(Capped(), sizes).values())
        assert {task for task in rows if rows[task]} == {task for task in sizes if sizes[task]}


def test_proportional_is_every_row_once_where_no_task_is_large() -> None:
    small = {"sst": 8000, "quora": 4999, "sts": 7, "one": 1, "empty": 0}
    assert rows_of(Proportional(), small) == small
    assert rows_of(Proportional(total=2 * sum(small.values())), small) == {task: 2 * n for task, n in small.items()}


@pytest.mark.parametrize("make", SHARED)
def test_refuses_too_few_rows(make: type[Any]) -> None:
    for total in (0, -5):
        with pytest.raises(ConfigError, match=rf"^total: expected at least 1 row an epoch, found {total}$"):
            make(total=total)
    assert rows_of(make(total=3), SIZES) == {"sst": 1, "quora": 1, "sts": 1, "empty": 0}
    with pytest.raises(
        ConfigError, match=r"^the mixer's total: expected at least 3 rows an epoch, one for each task, found 2$"
    ):
        rows_of(make(total=2), SIZES)


@pytest.mark.parametrize(
    ("make", "option", "values"),
    [
        (Temperature, "temperature", [0, -1, math.nan, math.inf]),
        (Annealed, "start", [-0.1, 1.1, math.nan]),
        (Annealed, "end", [-0.1, 1.1, math.nan]),
    ],
)
def test_refuses_a_wrong_option(make: type[Any], option: str, values: list[float]) -> None:
    for value in values:
        with pytest.raises(ConfigError, match=rf"^{option}: expected .* found {value}$"):
            make(**{option: value})


def test_shares_from_a_command_line() -> None:
    for text, wanted in {
        "temperature:4,total=500": Temperature(temperature=4, total=500),
        "annealed:end=0,total=500": Annealed(end=0, total=500),
        "sqrt:500": Sqrt(total=500),
        "proportional": Proportional(),
    }.items():
        name, options = parse_spec(text)
        assert rows_of(build("mixer", name, **options), REAL, 1, 2) == rows_of(wanted, REAL, 1, 2)
    with pytest.raises(ConfigError, match=r"^mixer 'temperature': temperature: expected .* found 0.0"):
        build("mixer", "temperature", temperature="0")
