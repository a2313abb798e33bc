"""The wheel and the sdist hold what they should, and an unpacked wheel works with no checkout in sight."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from configparser import ConfigParser
from email import message_from_bytes
from email.message import Message
from importlib.metadata import packages_distributions
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from tests.test_imports import ROOT, imports_of, modules_in

EXTRAS = {"minilm", "hf", "tune", "report", "eda", "parquet", "tagging", "docs", "dev", "all"}
BUILT_IN = {folder.name for folder in (ROOT / "plugins").glob("mtk_*") if any(folder.glob("*.py"))}


def _build(target: str, folder: Path) -> Path:
    """Builds with the installed hatchling: no network, no environment of its own."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    return _build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    return _build("sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of Python files is installed once it is unpacked into a folder of the import path."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def _info(unpacked: Path, name: str) -> bytes:
    (file,) = unpacked.glob(f"multitask_toolkit-*.dist-info/{name}")
    return file.read_bytes()


def _metadata(unpacked: Path) -> Message:
    return message_from_bytes(_info(unpacked, "METADATA"))


def _project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def test_wheel_holds_the_core_and_every_plugin_and_nothing_else(unpacked: Path) -> None:
    packages = {path.name for path in unpacked.iterdir() if not path.name.endswith(".dist-info")}
    assert packages == {"mtk"} | BUILT_IN
    source = {f"mtk.{name}" if name else "mtk": file for name, file in modules_in(ROOT / "mtk").items()}
    source |= {name: file for name, file in modules_in(ROOT / "plugins").items() if name.split(".")[0] in BUILT_IN}
    assert {name for name in modules_in(unpacked) if ".dist-info" not in name} == set(source)
    assert not [path for path in unpacked.rglob("*") if path.name == "__pycache__"]


@pytest.mark.parametrize(
    "file",
    [
        "mtk/py.typed",
        "mtk/templates/task-train.tsv.tmpl",
        "mtk_text/sample/README.md",
        "mtk_text/sample/sts-train.csv",
        "mtk_report/report.html.j2",
    ],
)
def test_wheel_holds_files_that_are_no_modules(file: str, unpacked: Path) -> None:
    at_home = ROOT / file if file.startswith("mtk/") else ROOT / "plugins" / file
    assert (unpacked / file).read_bytes() == at_home.read_bytes()


def test_wheel_holds_the_whole_sample(unpacked: Path) -> None:
    there = {path.name for path in (unpacked / "mtk_text" / "sample").iterdir()}
    assert there == {path.name for path in (ROOT / "plugins" / "mtk_text" / "sample").iterdir()}


def test_every_plugin_folder_is_an_entry_point(unpacked: Path) -> None:
    points = ConfigParser()
    points.read_string(_info(unpacked, "entry_points.txt").decode())
    assert set(points["mtk"].values()) == BUILT_IN
    assert dict(points["mtk"]) == {module.removeprefix("mtk_"): module for module in BUILT_IN}
    assert dict(points["console_scripts"]) == {"mtk": "mtk.cli:main"}


def test_metadata(unpacked: Path) -> None:
    metadata = _metadata(unpacked)
    assert metadata["Name"] == "multitask-toolkit"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS
    torch = next(line for line in metadata.get_all("Requires-Dist", []) if re.match(r"torch\b", line))
    assert "<2.14" in torch and ">=2.6" in torch
    assert b"Apache License" in _info(unpacked, "licenses/LICENSE")


def test_version_is_the_modules_and_the_changelogs(unpacked: Path) -> None:
    import mtk

    assert _metadata(unpacked)["Version"] == mtk.__version__
    assert f"## [{mtk.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_extras_hold_requirements_and_all_names_every_one_but_those_of_developers() -> None:
    extras = _project()["optional-dependencies"]
    assert set(extras) == EXTRAS and all(extras.values())
    (everything,) = extras["all"]
    named = set(everything.removeprefix("multitask-toolkit[").removesuffix("]").split(","))
    assert named == EXTRAS - {"all", "dev", "docs"}


def test_every_imported_distribution_is_required() -> None:
    project = _project()
    required = [
        *project["dependencies"],
        *(line for lines in project["optional-dependencies"].values() for line in lines),
    ]
    declared = {_normal(re.split(r"[\[<>=!~; ]", line)[0]) for line in required}
    known = dict(packages_distributions())
    known["pydantic_core"] = known["pydantic"]  # the half of pydantic that holds its errors, in step with it
    own = {"mtk", *BUILT_IN}
    missing = set()
    for root in (ROOT / "mtk", ROOT / "plugins"):
        for name, file in modules_in(root).items():
            for found in imports_of(name, file):
                top = found.module.split(".")[0]
                if top in own or top in sys.stdlib_module_names:
                    continue
                if not {_normal(name) for name in known.get(top, [top])} & declared:
                    missing.add(f"{file.relative_to(ROOT)}:{found.line}: {top}")
    assert not missing


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_sdist_holds_sources_tests_and_docs_and_builds_again(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (root,) = tmp_path.iterdir()
    files = {str(PurePosixPath(path.relative_to(root))) for path in root.rglob("*") if path.is_file()}
    assert {"pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "Makefile", "docs/licences.md"} <= files
    assert {f"tests/{path.name}" for path in (ROOT / "tests").glob("*.py")} <= files
    assert {f"plugins/{name}/__init__.py" for name in BUILT_IN} <= files
    assert {name.split("/")[0] for name in files if "/" in name} <= {
        *("mtk", "plugins", "tests", "docs", "examples", "benchmarks", ".ci")
    }
    (tmp_path / "again").mkdir()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "again")]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (again,) = (tmp_path / "again").iterdir()
    with zipfile.ZipFile(again) as second, zipfile.ZipFile(wheel) as first:
        assert set(second.namelist()) == set(first.namelist())


def test_unpacked_wheel_registers_its_plugins_and_finds_its_sample(unpacked: Path, tmp_path: Path) -> None:
    code = """
import mtk, mtk.plugins, mtk_text.sources
print(mtk.__file__)
print(mtk_text.sources.SAMPLE / "sts-train.csv")
print(*mtk.plugins.registered("task"))
print(*[b.reason for b in mtk.plugins.broken() if b.distribution == "multitask-toolkit"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(unpacked)},  # before the checkout, where that is installed editable
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    module, sample, tasks, broken = done.stdout.splitlines()
    assert Path(module).is_relative_to(unpacked)
    assert Path(sample).is_relative_to(unpacked) and Path(sample).is_file()
    assert {"sst", "quora", "sts"} <= set(tasks.split())
    assert broken == ""
