from __future__ import annotations

import importlib
import subprocess
import sys
from typing import Any

import pytest
import torch

import mtk_mixers
from mtk import ConfigError, Mixer, build
from mtk.plugins import parse_spec
from mtk_mixers.all import All
from mtk_mixers.capped import Capped

SIZES = {"sst": 8544, "quora": 20000, "sts": 6040, "empty": 0}


def test_registers_what_it_has_and_imports_no_torch() -> None:
    found: dict[str, str] = {}
    mtk_mixers.register_mixers(lambda name, build, summary, **more: found.update({name: build}))
    assert list(found) == ["all", "capped"]
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
