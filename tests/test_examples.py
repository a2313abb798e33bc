"""The example plugin package: built as a wheel, unpacked where nothing else is installed, and used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import pytest

import mtk.plugins
from mtk.cli.app import run
from mtk.plugins import Plugins
from tests.test_docs import SMALL_OPTIONS, blocks, command, lines_of

ROOT = Path(__file__).parents[1]
LOUDEST = ROOT / "examples" / "mtk-loudest"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what `pip install` would put into site-packages."""
    pytest.importorskip("hatchling")
    work = tmp_path_factory.mktemp("loudest")
    shutil.copytree(LOUDEST, work / "source", ignore=shutil.ignore_patterns("__pycache__", "dist"))
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(work)]
    subprocess.run(command, cwd=work / "source", check=True, capture_output=True)
    (wheel,) = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(work / "site")
    return work / "site"


@pytest.fixture
def loudest(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Distribution]:
    """The built-in plugins and the example, in place of whatever is installed here."""
    (info,) = site.glob("*.dist-info")
    distribution = PathDistribution(info)
    built_in = Distribution.from_name("multitask-toolkit").entry_points.select(group="mtk")
    points = [*built_in, *distribution.entry_points.select(group="mtk")]
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(mtk.plugins, "_default", Plugins(points))
    yield distribution
    for name in [name for name in sys.modules if name.split(".")[0] == "mtk_loudest"]:
        del sys.modules[name]


def test_it_is_found_without_torch(site: Path) -> None:
    """A fresh process with the folder on its path lists the plugin, and has not imported torch for it."""
    script = (
        "import sys; from mtk.cli.app import run; code = run(['plugins', 'list']); assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; sys.exit(code)"],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if "loudest" in line)
    assert line.split()[0] == "combiner" and line.split()[-2:] == ["mtk-loudest", "0.1.0"]


def test_show(loudest: Distribution, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plugins", "show", "loudest"]) == 0
    shown = capsys.readouterr().out
    assert "mtk-loudest 0.1.0, plugin 'loudest'" in shown
    assert "ratio" in shown and "float" in shown


def test_tutorial(loudest: Distribution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(ROOT / "docs" / "tutorials" / "write-a-combiner.md", "bash"):
        for line in lines_of(block):
            command(line, monkeypatch)


def test_train(loudest: Distribution, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["train", "--task", "sst", "--task", "sts", "--sample", "--combiner", "loudest:ratio=1.5", *SMALL_OPTIONS]
    assert run([*command, "--out", str(out)]) == 0
    assert 'ratio = "1.5"' in (out / "config.toml").read_text()
    assert '"combiner loudest": "mtk-loudest 0.1.0"' in (out / "run.json").read_text()


def test_a_wrong_option_is_one_line(loudest: Distribution, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--task", "sst", "--sample", *SMALL_OPTIONS, "--out", str(tmp_path / "run")]
    assert run([*command, "--combiner", "loudest:ratio=0.5"]) == 2
    assert capsys.readouterr().err.startswith("error: combiner 'loudest': ratio: expected 1 or more, found 0.5")


def test_its_own_tests_pass(site: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(LOUDEST / "tests")]
    done = subprocess.run(
        command,
        cwd=site,
        env={**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
