"""`mtk plugins list`, `show` and `new`, and `--no-plugins`, in process."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

import mtk.plugins
from mtk.cli.app import run as main_run
from mtk.cli.plugins import app
from mtk.errors import PluginError
from tests.test_plugins import Point, Weighted, plugin

SUMMARY = "weights by hand, and this line is much longer than any terminal is wide " * 3


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    named = {"paper": "arXiv 1", "aliases": ["hand"]}
    found = mtk.plugins.Plugins(
        [
            Point("toy", plugin("register_combiners", ("weighted", Weighted, SUMMARY), **named)),
            Point("mixer", plugin("register_mixers", ("weighted", "mtk_gone:X", "a mixer"))),
            Point("commands", plugin("register_commands", ("data fetch", print, "fetch it"))),
            Point("bad", ImportError("no nose")),
        ]
    )
    monkeypatch.setattr(mtk.plugins, "_default", found)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_show_a_command() -> None:
    shown = run("show", "data", "fetch")
    assert shown.startswith("command data fetch: fetch it") and "mtk data fetch --help" in shown
    assert "plugin 'commands'" in shown
    with pytest.raises(PluginError, match="unknown plugin 'dta fetch'; did you mean 'data fetch'"):
        run("show", "dta", "fetch")
    with pytest.raises(PluginError, match="unknown mixer 'data fetch'"):
        run("show", "data fetch", "--kind", "mixer")


def test_list_is_plain_and_uncropped() -> None:
    lines = run("list").splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["kind", "name"],
        ["combiner", "weighted"],
        ["mixer", "weighted"],
        ["command", "data"],
        ["broken", "bad"],
    ]
    assert SUMMARY.strip() in lines[1] and "ImportError: no nose" in lines[-1]


def test_list_of_a_kind() -> None:
    assert "combiner " not in run("list", "--kind", "mixer")
    assert "data fetch" in run("list", "--kind", "command")
    with pytest.raises(PluginError, match="did you mean 'mixer'"):
        CliRunner().invoke(app, ["list", "--kind", "mixr"], catch_exceptions=False)


def test_list_json() -> None:
    shown = json.loads(run("list", "--json"))
    assert [row["kind"] for row in shown["plugins"]] == ["combiner", "mixer", "command"]
    assert shown["broken"][0]["plugin"] == "bad"


def test_show() -> None:
    text = run("show", "hand")
    for part in (
        "combiner weighted",
        "arXiv 1",
        "aliases: hand",
        "Weights by hand.",
        "'cone' | 'mean'",
        "plugin 'toy'",
    ):
        assert part in text
    both = run("show", "weighted")
    assert "combiner weighted" in both and "mixer weighted" in both and "cannot be read" in both
    assert "combiner" not in run("show", "weighted", "--kind", "mixer")


def test_show_a_recipe_says_where_its_configuration_is_shown(installed: None) -> None:
    text = run("show", "paper/final")
    assert "mtk recipes paper/final" in text and "partial" not in text


def test_show_unknown() -> None:
    with pytest.raises(PluginError, match=r"unknown plugin 'wieghted'; did you mean 'weighted'.*'bad' is left out"):
        CliRunner().invoke(app, ["show", "wieghted"], catch_exceptions=False)


# ---------------------------------------------------------------------------------------------- before a command


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed, asked for anew; the environment is put back afterwards."""
    monkeypatch.setenv("MTK_DISABLE_PLUGINS", "")
    monkeypatch.setattr(mtk.plugins, "_default", None)


def test_no_plugins_leaves_them_out(installed: None, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--no-plugins", "heads", "--no-plugins=schedulers"]
    assert main_run([*options, "plugins", "list"]) == 0
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert ["disabled", "heads"] in rows and ["disabled", "schedulers"] in rows
    assert ["task", "sst"] in rows and not [row for row in rows if row[0] in ("head", "scheduler", "broken")]
    assert os.environ["MTK_DISABLE_PLUGINS"] == "heads,schedulers"  # of the processes that a search starts, too
    assert main_run(["plugins", "show", "mlp"]) == 2
    capsys.readouterr()
    assert main_run(["plugins", "show", "heads"]) == 2
    disabled = "plugin 'heads' (multitask-toolkit) is disabled by MTK_DISABLE_PLUGINS (or --no-plugins)"
    assert capsys.readouterr().err == f"error: unknown plugin 'heads'; {disabled}\n"


def test_an_option_of_a_plugin_that_is_left_out_says_so(
    installed: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["train", "--task", "sst", "--sample", "--combiner", "pcgrad", "--out", str(tmp_path / "out")]
    assert main_run(["--no-plugins", "combiners", *command]) == 2
    assert "unknown combiner 'pcgrad'; known: none; disabled: combiners" in capsys.readouterr().err


def test_a_misspelt_one_is_told(installed: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_run(["--no-plugins", "haeds", "recipes"]) == 0
    told = capsys.readouterr().err
    assert "names 'haeds', but no installed plugin" in told and "did you mean 'heads'?" in told
    assert main_run(["--no-plugins"]) == 2


def test_new(tmp_path: Path) -> None:
    lines = run("new", "mtk-mine", "--kind", "combiner", "--out", str(tmp_path / "mine")).splitlines()
    assert str(tmp_path / "mine" / "mtk_mine" / "combiner.py") in lines and "pip install -e" in lines[-1]
    with pytest.raises(PluginError, match="did you mean 'combiner'"):
        CliRunner().invoke(app, ["new", "mtk-mine", "--kind", "combinr"], catch_exceptions=False)
