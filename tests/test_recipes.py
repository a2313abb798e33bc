"""Recipes laid on recipes, an encoder's own settings, and one clear line for each mistake in a file."""

from __future__ import annotations

import sys
import types
from functools import partial
from pathlib import Path

import pytest

import mtk.plugins
from mtk.cli.app import run
from mtk.config import differences, make_config
from mtk.errors import ConfigError, PluginError
from mtk.hookspecs import hookimpl
from mtk.recipes import load_recipe, recipe_tree, resolved
from mtk.settings import configure

ROOT = """
title = "Root"
source = "us"
published = { sst = 0.5, mean = 0.5 }
readings = ["as it is"]
[config]
encoder = { name = "bert-base", pooling = "pooler" }
mixer = { name = "capped", rows = "none", per_task = { quora = 6, sts = 7 } }
[config.tasks.sst]
head = "linear"
[config.tasks.quora]
[config.tasks.sts]
[config.model]
projection = "hidden"
[config.train]
epochs = 20
[encoders.tiny]
encoder = { name = "tiny", hidden_size = 8 }
train.epochs = 4
"""
TOP = """
title = "Top"
base = "root.toml"
changes = ["combiner"]
[config]
combiner = "pcgrad"
model.projection = "none"
[config.train]
epochs = 10
[encoders.minilm]
train.epochs = 3
"""


@pytest.fixture
def files(tmp_path) -> Path:
    (tmp_path / "root.toml").write_text(ROOT)
    (tmp_path / "top.toml").write_text(TOP)
    return tmp_path


def changed(file: Path, old: str, new: str) -> str:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return str(file)


def test_a_recipe_is_laid_on_its_base_which_stands_beside_it(files, monkeypatch):
    monkeypatch.chdir("/")
    recipe = load_recipe(str(files / "top.toml"))
    assert recipe.base is not None and recipe.base.title == "Root"
    assert (recipe.encoder, recipe.overlays, recipe.changes) == ("bert-base", ["tiny", "minilm"], ("combiner",))
    tree = recipe.tree()
    assert tree["combiner"] == "pcgrad" and tree["encoder"] == {"name": "bert-base", "pooling": "pooler"}
    assert tree["tasks"]["sst"] == {"head": "linear"} and tree["train"] == {"epochs": 10}
    assert recipe.base.published == {"sst": 0.5, "mean": 0.5} and not recipe.published


def test_a_base_has_its_settings_for_an_encoder_below_those_of_the_recipe(files):
    recipe = load_recipe(str(files / "top.toml"))
    assert recipe.tree("minilm")["train"]["epochs"] == 3
    assert recipe.tree("tiny")["train"]["epochs"] == 10  # the recipe itself says so, for any encoder
    assert recipe.base is not None and recipe.base.tree("tiny")["train"]["epochs"] == 4
    assert recipe.tree("another") == recipe.tree() == recipe.tree("bert-base")


@pytest.mark.parametrize(
    ("given", "epochs", "name"),
    [
        ({}, 20, "bert-base"),
        ({"encoder": "tiny"}, 4, "tiny"),
        ({"encoder": "tiny:layers=1"}, 4, "tiny"),
        ({"config": {"encoder": "tiny"}}, 4, "tiny"),
        ({"config": {"encoder": {"name": "tiny"}}}, 4, "tiny"),
        ({"settings": ["encoder=tiny"]}, 4, "tiny"),
        ({"settings": ["encoder.name=tiny"]}, 4, "tiny"),
        ({"settings": ["encoder.pooling=cls"]}, 20, "bert-base"),
        ({"settings": ["encoder.pooling=cls"], "encoder": "tiny"}, 4, "tiny"),
        ({"settings": ["encoder.pooling=cls"], "config": {"encoder": "tiny"}}, 4, "tiny"),
        ({"settings": ["encoder=minilm"], "encoder": "tiny"}, 20, "minilm"),
        ({"config": {"encoder": "minilm"}, "encoder": "tiny"}, 4, "tiny"),
        ({"encoder": "minilm"}, 20, "minilm"),
    ],
)
def test_the_encoder_that_a_run_ends_up_with_picks_the_settings(files, given, epochs, name):
    config = configure(recipe=str(files / "root.toml"), **given)
    assert (config.train.epochs, config.encoder.name) == (epochs, name)


def test_options_override_a_file_and_a_file_overrides_a_recipe(files):
    recipe = str(files / "top.toml")
    assert configure(recipe=recipe, config={"combiner": "cagrad"}).combiner.name == "cagrad"
    assert configure(recipe=recipe, config={"combiner": "cagrad"}, combiner="sum").combiner.name == "sum"
    config = configure(recipe=recipe, encoder="tiny:layers=1")
    assert config.encoder.options == {"hidden_size": 8, "layers": "1"}


def test_none_takes_a_setting_back(files):
    recipe = load_recipe(str(files / "top.toml"))
    assert recipe.base is not None and make_config(recipe.base.tree()).model.projection == "hidden"
    assert make_config(recipe.tree()).model.projection is None
    assert "projection" not in resolved(recipe.tree())["model"]


def test_tasks_that_are_left_out_take_their_caps_along(files):
    recipe = str(files / "root.toml")
    assert configure(recipe=recipe, tasks=["sst"]).mixer.options == {"rows": "none", "per_task": {}}
    kept = configure(recipe=recipe, tasks=["sst", "sts"])
    assert kept.mixer.options["per_task"] == {"sts": 7} and list(kept.tasks) == ["sst", "sts"]
    assert kept.tasks["sst"].head is not None  # what the recipe has for a task that stays, stays
    assert configure(recipe=recipe).mixer.options["per_task"] == {"quora": 6, "sts": 7}
    given = configure(recipe=recipe, tasks=["sst"], settings=["mixer.per_task.quora=3"])
    assert given.mixer.options["per_task"] == {"quora": 3}  # what somebody types is not taken back
    assert configure(config={"tasks": {"sts": {}}, "mixer": "all"}, tasks=["sst"]).mixer.name == "all"


def test_resolved_spells_out_defaults_so_that_only_what_differs_does():
    same = resolved({"tasks": {"sst": {"head": "linear"}}})
    spelled = {"name": "linear", "rdrop": 0.0}
    assert same == resolved({"tasks": {"sst": {"head": spelled}}, "mixer": {"rows": 8000}, "scheduler": "linear"})
    other = resolved({"tasks": {"sst": {"head": "linear"}}, "mixer": {"name": "capped", "rows": 5}})
    assert list(differences(same, other)) == [("mixer.rows", 8000, 5)]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('title = "Root"', "title = 3", "title: expected a text, found 3"),
        ('source = "us"', "surce = 3", "unknown key 'surce'; did you mean 'source'"),
        ('source = "us"', "base = 3", "base: expected a text"),
        ('source = "us"', "changes = 'combiner'", "changes: expected a list of texts"),
        ('readings = ["as it is"]', "readings = [1]", "readings: expected a list of texts"),
        ("published = { sst = 0.5, mean = 0.5 }", "published = 3", "published: expected a table"),
        ("sst = 0.5,", 'sst = "0.5",', "published.sst: expected a number, found '0.5'"),
        ("sst = 0.5,", "sst = true,", "published.sst: expected a number, found True"),
        ("[config.train]", "[config.trian]", "unknown key 'trian'; did you mean 'train'"),
        ("train.epochs = 4", "train.epochs = 0", "root.toml for tiny: train.epochs"),
        ("[encoders.tiny]", "[encodrs.tiny]", "unknown key 'encodrs'"),
        ("[config.model]", "[config.model]\n[", "not a TOML file"),
    ],
)
def test_a_mistake_in_a_file_is_named(files, old, new, said):
    with pytest.raises(ConfigError) as error:
        load_recipe(changed(files / "root.toml", old, new))
    assert said in str(error.value) and "root.toml" in str(error.value) and "\n" not in str(error.value)


def test_an_overlay_that_is_no_table(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text("[config.tasks.sst]\n[encoders]\ntiny = 3\n")
    with pytest.raises(ConfigError, match=r"encoders\.tiny: expected a table, found 3"):
        load_recipe(str(file))


def test_a_recipe_that_is_laid_on_itself(files):
    changed(files / "root.toml", 'source = "us"', 'base = "top.toml"')
    with pytest.raises(ConfigError, match=r"is laid on itself: .*top\.toml on .*root\.toml on .*top\.toml"):
        load_recipe(str(files / "top.toml"))


def test_bases_and_recipes_that_are_not_there(files):
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read"):
        load_recipe(changed(files / "top.toml", "root.toml", "nowhere.toml"))
    with pytest.raises(PluginError, match="unknown recipe 'paper/finale'; did you mean 'paper/final'"):
        load_recipe(changed(files / "top.toml", "nowhere.toml", "paper/finale"))
    with pytest.raises(PluginError, match="unknown recipe 'root'"):
        recipe_tree("root")


def test_a_third_partys_recipe_lies_on_another_packages(tmp_path, monkeypatch):
    file = tmp_path / "mine.toml"
    file.write_text('base = "paper/surgery"\n[config]\ncombiner = "cagrad"\n')
    plugin = types.ModuleType("strangers")

    @hookimpl
    def register_recipes(register):
        register("mine/cagrad", partial(Path, file), "surgery, otherwise")

    plugin.register_recipes = register_recipes
    monkeypatch.setitem(sys.modules, "strangers", plugin)
    manager = mtk.plugins.Plugins()
    manager.add("strangers", plugin, "strangers", "1.0")
    assert not manager.broken()
    monkeypatch.setattr(mtk.plugins, "_default", manager)
    config = configure(recipe="mine/cagrad", encoder="minilm")
    assert (config.combiner.name, config.train.epochs, config.scheduler.name) == ("cagrad", 4, "linear")
    assert load_recipe("mine/cagrad").title == "mine/cagrad"  # a recipe without a title goes by its name


# ---------------------------------------------------------------------------------------------- the commands


def test_mtk_recipes_lists_and_shows(capsys, files):
    assert run(["recipes"]) == 0
    assert "paper/final-tuned" in capsys.readouterr().out
    assert run(["recipes", str(files / "top.toml"), "--encoder", "minilm"]) == 0
    printed = capsys.readouterr().out
    for part in (
        f"{files / 'top.toml'}: Top",
        "shown: minilm",
        "combiner.name: sum -> pcgrad",
        "projection: hidden ->",
    ):
        assert part in printed
    assert run(["recipes", str(files / "root.toml")]) == 0
    printed = capsys.readouterr().out
    assert "published: sst 0.5, mean 0.5 (us)" in printed and "  - as it is" in printed


@pytest.mark.parametrize("encoder", [None, "tiny", "minilm", "tiny:hidden_size=16"])
def test_the_printed_configuration_is_the_one_that_is_trained(capsys, files, tmp_path, encoder):
    given = [] if encoder is None else ["--encoder", encoder]
    assert run(["recipes", str(files / "root.toml"), *given, "--toml"]) == 0
    (tmp_path / "printed.toml").write_text(capsys.readouterr().out)
    trained = configure(recipe=str(files / "root.toml"), encoder=encoder)
    assert configure(config=tmp_path / "printed.toml") == trained
    assert trained.encoder.name == (encoder or "bert-base").partition(":")[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--toml"], "belong to one recipe"),
        (["paper/fnal"], "did you mean 'paper/final'"),
        (["paper/final", "--encoder", "minlm"], "did you mean 'minilm'"),
    ],
)
def test_mistakes_in_one_line(capsys, arguments, said):
    assert run(["recipes", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0]
