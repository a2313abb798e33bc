"""What docstrings say of options."""

from __future__ import annotations

import pytest

import mtk.plugins
from mtk import GradientCombiner
from mtk.cli.plugins import show_plugin
from mtk.docstrings import described
from mtk.plugins import Plugins
from tests.test_plugins import Point, plugin


def test_options_are_told_from_docstrings() -> None:
    class Base:
        """dropout: of rows."""

    class Made(Base):
        """Does it.

        size, depth: how many units,
            and layers. Never 0.
        It is fast. rate: of learning. As in the paper. Raises ValueError.
        """

    meanings, text = described(Made, ["size", "depth", "rate", "dropout"])
    assert meanings["size"] == meanings["depth"] == "How many units, and layers. Never 0."
    assert (meanings["rate"], meanings["dropout"]) == ("Of learning.", "Of rows.")
    assert text == ["Does it.", "It is fast. As in the paper. Raises ValueError."]


def test_show_says_what_each_option_means(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a plugin is silent, another of its kind may speak; one that cannot be imported says nothing."""

    class Told(GradientCombiner):
        """It adds. scale: of every weight."""

        def __init__(self, *, scale: float = 1.0) -> None: ...

    class Silent(GradientCombiner):
        """It adds, too. power: whole, at least 1."""

        def __init__(self, *, scale: float = 2.0, power: int = 1, odd: bool = False) -> None: ...

    points = [
        Point("told", plugin("register_combiners", ("told", Told, "a sum"))),
        Point("gone", plugin("register_combiners", ("gone", "mtk_gone:X", "no sum"))),
        Point("silent", plugin("register_combiners", ("silent", Silent, "a sum"))),
    ]
    monkeypatch.setattr(mtk.plugins, "_default", Plugins(points))
    assert mtk.plugins.meanings("combiner", "silent") == {
        "scale": "Of every weight.",
        "power": "Whole, at least 1.",
        "odd": "",
    }
    show_plugin(["silent"], None)
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert [row[-1].strip() for row in rows if row[0] in ("scale", "power")] == [
        "Of every weight.",
        "Whole, at least 1.",
    ]
