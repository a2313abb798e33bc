from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
import torch

import mtk_mixers
from mtk import ConfigError, Mixer
from mtk_mixers.all import All
from mtk_mixers.capped import Capped

SIZES = {"sst": 8544, "quora": 20000, "sts": 6040, "empty": 0}


def test_registers_what_it_has_and_imports_no_torch() -> None:
    found: dict[str, str] = {}
    mtk_mixers.register_mixers(lambda name, build, summary, **more: found.update({name: build}))
    assert list(found) == ["all", "capped"]
    for build in found.values():
        module, attribute = build.split(":")
        assert issubclass(getattr(importlib.import_module(module), attribute), Mixer)
    light = "import sys, mtk_mixers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", light], check=False).returncode == 0


def test_all_gives_every_row_once() -> None:
    assert All().rows(SIZES, 0, 3, torch.Generator()) == SIZES


def test_capped_by_hand() -> None:
    generator = torch.Generator()
    assert Capped().rows(SIZES, 0, 3, generator) == {"sst": 8000, "quora": 8000, "sts": 6040, "empty": 0}
    assert Capped(rows=6000).rows(SIZES, 2, 3, generator) == {"sst": 6000, "quora": 6000, "sts": 6000, "empty": 0}


@pytest.mark.parametrize("mixer", [All(), Capped(rows=7000)])
def test_rows_are_a_pure_function_and_never_more_than_the_size(mixer: Mixer) -> None:
    generator, sizes = torch.Generator().manual_seed(0), dict(SIZES)
    before = generator.get_state()
    first = mixer.rows(sizes, 0, 3, generator)
    assert first == mixer.rows(sizes, 0, 3, generator) and first is not sizes and sizes == SIZES
    assert torch.equal(generator.get_state(), before)
    assert list(first) == list(sizes) and all(0 <= first[task] <= sizes[task] for task in sizes)


@pytest.mark.parametrize("rows", [0, -5])
def test_capped_refuses_no_rows(rows: int) -> None:
    with pytest.raises(ConfigError, match=rf"mixer 'capped': rows: expected at least 1 .* found {rows}$"):
        Capped(rows=rows)
