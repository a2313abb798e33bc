"""Packages that `mtk plugins new` writes, and a stranger's: installed, listed, tested, trained, and missed."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest

import mtk.plugins
from mtk.cli.app import run
from mtk.errors import ConfigError, MTKError, PluginError
from mtk.plugins import Plugins
from mtk.scaffold import KINDS, write_package
from tests.test_docs import SMALL_OPTIONS, blocks, command, lines_of

ROOT = Path(__file__).parents[1]
COLA = ROOT / "examples" / "mtk-cola"
TASKS = ["--task", "sst", "--task", "cola", "--task", "sayings"]


def forget(*modules: str) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in modules]:
        del sys.modules[name]


# ---------------------------------------------------------------------------------------------- written


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_package_of_any_kind_passes_its_own_test(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "executor":
        pytest.skip("its check starts a process; that of the built-in executor is in test_conformance.py")
    files = write_package("mtk-my-own", kind, tmp_path / "new")
    assert {"pyproject.toml", "README.md", "__init__.py", f"{kind}.py", "test_mtk_my_own.py"} <= {f.name for f in files}
    assert not [file for file in files if "$" in file.read_text(encoding="utf-8").replace("${", "")]
    found = Plugins()
    monkeypatch.syspath_prepend(str(tmp_path / "new"))
    monkeypatch.setattr(mtk.plugins, "_default", found)
    try:
        found.add("my-own", importlib.import_module("mtk_my_own"), "mtk-my-own", "0.1.0")
        assert found.broken() == []
        names: dict[str, object] = {}
        exec((tmp_path / "new" / "tests" / "test_mtk_my_own.py").read_text(encoding="utf-8"), names)
        names["test_conformance"]()  # type: ignore[operator]
    finally:
        forget("mtk_my_own")


@pytest.mark.parametrize(
    ("package", "kind", "text"),
    [
        ("cola", "task", "expected a package name mtk-NAME .* such as mtk-cola, found 'cola'"),
        ("mtk-Cola", "task", "found 'mtk-Cola'"),
        ("mtk-3-way", "task", "found 'mtk-3-way'"),
        ("mtk-sst", "task", "the task 'sst' is already there"),
        ("mtk-heads", "combiner", "a module mtk_heads is already installed"),
        ("mtk-task", "command", "the command 'task' is already there .mtk task --help."),
        ("mtk-mine", "tsk", "unknown plugin kind 'tsk'; did you mean 'task'"),
    ],
)
def test_what_no_package_can_be_called(package: str, kind: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(MTKError, match=text):
        write_package(package, kind, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_no_command_takes_the_place_of_mtk_s_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plugins", "new", "mtk-train", "--kind", "command", "--out", str(tmp_path / "new")]) == 2
    assert "the command 'train' is already there" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="expected a new or empty folder, found files in it"):
        write_package("mtk-mine", "head", tmp_path)
    with pytest.raises(ConfigError, match="expected a new or empty folder, found a file"):
        write_package("mtk-mine", "head", tmp_path / "mine.txt")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_package("mtk-mine", "head", Path("/proc/no/such"))
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


# ---------------------------------------------------------------------------------------------- installed


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip installs a new task package and the example."""
    pytest.importorskip("hatchling")
    work = tmp_path_factory.mktemp("packages")
    assert run(["plugins", "new", "mtk-sayings", "--kind", "task", "--out", str(work / "mtk-sayings")]) == 0
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-build-isolation"]
    sources = [str(work / "mtk-sayings"), str(COLA)]
    subprocess.run([*pip, "--no-deps", "--target", str(work / "site"), *sources], check=True, capture_output=True)
    return work / "site"


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The built-in plugins and these two, in place of whatever is installed here."""
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(mtk.plugins, "_default", plugins_of(site))
    yield
    forget("mtk_sayings", "mtk_cola")


def plugins_of(site: Path, *without: str) -> Plugins:
    found = [Distribution.from_name("multitask-toolkit"), *distributions(path=[str(site)])]
    return Plugins([point for d in found if d.name not in without for point in d.entry_points.select(group="mtk")])


@pytest.fixture(scope="module")
def trained(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a built-in task and both packages' tasks; `cola` has the example's head."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setattr(mtk.plugins, "_default", plugins_of(site))
        assert run(["train", *TASKS, "--head", "cola=attend", "--sample", *SMALL_OPTIONS, "--out", str(out)]) == 0
    forget("mtk_sayings", "mtk_cola")
    return out


@pytest.mark.slow
def test_their_own_tests_pass(site: Path) -> None:
    tests = [str(site.parent / "mtk-sayings" / "tests"), str(COLA / "tests")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(site.parent), *tests],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "8 passed" in done.stdout, done.stdout + done.stderr


def test_they_are_listed_with_their_origin(installed: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plugins", "list", "--kind", "task"]) == 0
    lines = {line.split()[1]: line.split()[-2:] for line in capsys.readouterr().out.splitlines()}
    assert lines["sayings"] == ["mtk-sayings", "0.1.0"] and lines["cola"] == ["mtk-cola", "0.1.0"]


def test_the_run_records_where_its_plugins_come_from(trained: Path) -> None:
    facts = json.loads((trained / "run.json").read_text())
    assert facts["plugins"]["task sayings"] == "mtk-sayings 0.1.0"
    assert facts["plugins"]["head attend"] == facts["plugins"]["task cola"] == "mtk-cola 0.1.0"
    assert facts["scores"]["primary"]["cola"] == "matthews"


def test_a_run_without_one_of_its_plugins_loads_the_other_tasks(
    trained: Path, site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(mtk.plugins, "_default", plugins_of(site, "mtk-cola"))
    with pytest.warns(UserWarning, match=r"task 'cola' is left out: .* of mtk-cola 0\.1\.0, .* pip install mtk-cola"):
        model = mtk.load(trained, device="cpu", threads=1)
    assert list(model.tasks) == ["sst", "sayings"] and list(model.left_out) == ["cola"]
    assert list(model.evaluate().tasks) == ["sst", "sayings"]
    with pytest.raises(PluginError, match="pip install mtk-cola"):
        model.predict("cola", ["a text"])
    assert "mtk_cola" not in sys.modules  # its folder is on the path, and still nothing imports it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run(["evaluate", str(trained), "--json"]) == 0
        assert list(json.loads(capsys.readouterr().out)["left_out"]) == ["cola"]
        assert run(["predict", str(trained), "--text", "Who left?"]) == 0
        assert [json.loads(line)["task"] for line in capsys.readouterr().out.splitlines()] == ["sst", "sayings"]
        assert run(["predict", str(trained), "--text", "Who left?", "--task", "cola"]) == 2
        assert "pip install mtk-cola" in capsys.readouterr().err
    assert run(["train", "--resume", str(trained)]) == 2
    assert "pip install mtk-cola" in capsys.readouterr().err
    forget("mtk_sayings")


def test_without_all_of_its_tasks_a_run_is_no_use(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = Plugins([p for p in Distribution.from_name("multitask-toolkit").entry_points if p.value == "mtk_encoders"])
    monkeypatch.setattr(mtk.plugins, "_default", away)
    with pytest.raises(PluginError, match="the run uses the task 'sst' of multitask-toolkit"):
        mtk.load(trained)


def test_without_its_encoder_a_run_names_the_package(
    trained: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = Distribution.from_name("multitask-toolkit").entry_points.select(group="mtk")
    monkeypatch.setattr(mtk.plugins, "_default", Plugins([p for p in points if p.value != "mtk_encoders"]))
    with pytest.raises(PluginError, match=r"the run uses the encoder 'tiny' of multitask-toolkit .* pip install"):
        mtk.load(trained)


@pytest.mark.parametrize(
    ("disabled", "version", "text"),
    [
        ("cola", 1, "which is disabled; leave out --no-plugins or MTK_DISABLE_PLUGINS"),
        ("", 2, "which is broken: plugin 'cola' .* is built for version 2"),
    ],
)
def test_a_plugin_that_is_there_but_left_out_needs_no_installing(
    trained: Path, site: Path, disabled: str, version: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("MTK_DISABLE_PLUGINS", disabled)
    monkeypatch.setattr(mtk.plugins, "_default", plugins_of(site))
    monkeypatch.setattr(importlib.import_module("mtk_cola"), "MTK_API", version)
    with pytest.warns(UserWarning, match=text):
        assert "cola" in mtk.load(trained, device="cpu", threads=1).left_out
    forget("mtk_sayings", "mtk_cola")


def test_a_tampered_run_imports_no_code(
    trained: Path, installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names in a run folder are looked up among the plugins; a module that they spell is not imported."""
    (tmp_path / "evil.py").write_text("import pathlib; pathlib.Path('was-here').touch()\nThing = None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for file, old in (("config.toml", '"sst"'), ("config.toml", '"tiny"'), ("best/model.json", '"bert"')):
        copy = shutil.copytree(trained, tmp_path / "copy")
        text = (copy / file).read_text()
        assert old in text
        (copy / file).write_text(text.replace(old, '"evil:Thing"').replace('kind = "sst"', 'kind = "evil:Thing"'))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(MTKError):
                assert "sst" not in mtk.load(copy).tasks or old == '"tiny"'
        shutil.rmtree(copy)
    assert not (tmp_path / "was-here").exists() and "evil" not in sys.modules


def test_tutorial(installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(ROOT / "docs" / "tutorials" / "write-a-task-plugin.md", "bash"):
        for line in lines_of(block):
            command(line, monkeypatch)


def test_a_packages_rows_train_beside_a_folder_without_them(
    installed: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "data", tmp_path / "run"
    folder.mkdir()
    for split in ("train", "dev"):
        rows = [f"{split} number {i}\t{('statement', 'question')[i % 2]}\n" for i in range(8)]
        (folder / f"sayings-{split}.tsv").write_text("text\tlabel\n" + "".join(rows))
    tasks = ["--task", "sayings", "--task", "cola"]
    assert run(["train", *tasks, "--data", str(folder), *SMALL_OPTIONS, "--out", str(out)]) == 0
    facts = json.loads((out / "run.json").read_text())["data"]
    assert [facts[name]["sample"] for name in ("sayings", "cola")] == [False, False]
    assert facts["sayings"]["origin"] == str(folder)
    assert run(["evaluate", str(out)]) == 0
    own = ["--task", f"cola:data={folder}", "--task", "sayings"]
    assert run(["train", *own, "--data", str(folder), *SMALL_OPTIONS, "--out", str(tmp_path / "again")]) == 2
    assert (
        f"task 'cola': expected cola-train.tsv and cola-dev.tsv in {folder}, found neither" in capsys.readouterr().err
    )


def test_the_tutorial_shows_the_examples_files() -> None:
    page, seen = ROOT / "docs" / "tutorials" / "write-a-task-plugin.md", set()
    for block in blocks(page, "python", "toml"):
        name, _, content = block.partition("\n")
        file = COLA / name.removeprefix("# ")
        assert content.strip() == file.read_text(encoding="utf-8").strip(), f"{page.name} and {file} differ"
        seen.add(file)
    assert {*COLA.rglob("*.py"), COLA / "pyproject.toml"} == seen
