"""The benchmarks' own arithmetic, and that one of them runs. What they measure is nobody's test."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mtk.errors import ConfigError

FOLDER = Path(__file__).parent.parent / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


harness = load("harness")


def test_ratios_are_of_one_turn() -> None:
    found = harness.ratios([2.0, 6.0, 30.0], [1.0, 2.0, 5.0])
    assert found == {"median": 3.0, "min": 2.0, "max": 6.0, "all": [2.0, 3.0, 6.0]}


def test_the_exponent_is_that_of_the_power() -> None:
    sizes = [2.0, 4.0, 8.0]
    assert harness.exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)


def test_who_begins_rotates_and_a_side_that_fails_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []

    def run(name: str, turn: int) -> dict[str, int]:
        asked.append(name)
        if name == "bad":
            raise harness.SideError("bad: is not installed")
        return {"turn": turn}

    found = harness.turns(["a", "bad", "c"], 2, run)
    assert asked == ["a", "bad", "c", "c", "a"]
    assert found == {"a": [{"turn": 0}, {"turn": 1}], "c": [{"turn": 0}, {"turn": 1}]}
    assert "left out: bad: is not installed" in capsys.readouterr().out


def test_the_peak_is_of_this_process() -> None:
    assert harness.peak("cpu") > 2**20


def test_buckets_hold_rows_of_nearly_equal_length() -> None:
    plain = load("plain")
    ids = [[1] * (1 + 7 * i % 40) for i in range(40)]
    rows = plain.Rows([("", None)] * 40, ids, ids, [0.0] * 40, 2)
    draw = plain.batches(rows, 4, 0, bucketed=True)
    epoch = [next(draw) for _ in range(10)]
    assert sorted(i for batch in epoch for i in batch) == list(range(40))
    assert all(max(len(ids[i]) for i in b) - min(len(ids[i]) for i in b) <= 8 for b in epoch)
    assert plain.collate(rows, epoch[0], "cpu").tokens == sum(len(ids[i]) for i in epoch[0])


@pytest.mark.slow
def test_the_losses_of_step_agree_with_plain_loops(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    file = tmp_path / "step.json"
    given = {"encoder": "tiny", "turns": 1, "steps": 1, "warm": 1, "batch-size": 4, "threads": 1, "agree-steps": 2}
    flags = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, str(FOLDER / "step.py"), *flags, "--only", "mtk fp32", "naive", "--json", str(file)]
    peers = tmp_path / "peers"
    for module in ("accelerate", "psutil"):  # as if they were there: these sides use neither, and no test installs
        (peers / module).mkdir(parents=True)
    done = subprocess.run([*command, "--peers", str(peers)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert all(own["largest"] < 1e-4 for own in found["agreement"]["against"].values() if own["judged"])
    assert list(found["ratios"]) == ["mtk fp32 sum / naive fp32 loop"]
    assert str(tmp_path) not in file.read_text()


@pytest.fixture
def asha(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return load("asha")


def test_a_search_in_the_pool_costs_what_it_trains(asha: ModuleType) -> None:
    options = argparse.Namespace(epochs=4, budget=10)
    curves = [[number / 100 + epoch / 10 for epoch in range(4)] for number in range(9)]
    draws = [asha.drawn(7, number, 9) for number in range(10)]
    one = asha.replay(asha.built("random"), curves, options, 7)
    assert one.started == 3 and one.finished == 2 and len(one.best) == 10
    assert one.best[:5] == [*curves[draws[0]], curves[draws[0]][3]]
    assert one.best[7] == max(curves[draw][3] for draw in draws[:2])
    many = asha.replay(asha.built("asha:eta=2"), curves, options, 7)
    assert many.started > 3 and many.best[:2] == [curves[draws[0]][0], max(curves[draw][0] for draw in draws[:2])]
    failing = asha.replay(asha.built("random"), [[0.5]], options, 7)  # after an epoch, which costs another
    assert failing.best == [0.5] * 10 and failing.started == 5 and failing.finished == 0


def test_a_pool_is_gone_on_with_and_never_with_another_s_settings(asha: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "pool.jsonl"
    assert asha.read_pool(file, {"rows": 5}) == []
    with file.open("a") as pool:
        pool.write('{"scores": [1]}\n{"scores": [2')  # killed while it wrote
    assert asha.read_pool(file, {"rows": 5}) == [{"scores": [1]}] == asha.read_pool(file, {"rows": 5})
    with pytest.raises(ConfigError, match="rows is 5 there, not 6; choose another"):
        asha.read_pool(file, {"rows": 6})
