"""`mtk plugins list` and `show`, in process, on a toy set of plugins."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import mtk.plugins
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


def test_show_unknown() -> None:
    with pytest.raises(PluginError, match=r"unknown plugin 'wieghted'; did you mean 'weighted'.*'bad' is broken"):
        CliRunner().invoke(app, ["show", "wieghted"], catch_exceptions=False)
